//! The private server: start, stop, and the faults that tests ask for.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    LocalPostgresError,
    account::RunAs,
    binaries,
    cluster::{PidFile, initialise, private_dir, stop_left_over, tail},
    supervisor::{Shutdown, Supervisor},
};

/// How to start a private Postgres.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its data lives: made if absent, reused if there, kept at the end. A server that an earlier process
    /// left running on it is shut down first (its transactions are safe); one that another running process uses
    /// is an error. `None` means a temporary directory that is removed at the end.
    pub data_dir: Option<PathBuf>,
    /// Whether commits reach the disk before they are confirmed. Off only for tests.
    pub fsync: bool,
    /// The most connections.
    pub max_connections: u16,
    /// How long start-up may take.
    pub start_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_dir: None,
            fsync: true,
            max_connections: 100,
            start_timeout: Duration::from_secs(30),
        }
    }
}

/// A private Postgres. Dropping it stops it; so does the end of this process, however it comes.
#[derive(Debug)]
pub struct LocalPostgres {
    bin: PathBuf,
    run_as: Option<RunAs>,
    home: PathBuf,
    sockets: PathBuf,
    temporary: bool,
    options: Options,
    supervisor: Supervisor,
    // Held for as long as we live: says that the data directory is in use.
    _lock: File,
}

impl LocalPostgres {
    /// Finds the binaries, makes or reuses the data directory, starts the server and waits until it answers.
    /// Blocks for a second or two.
    pub fn start(options: Options) -> Result<Self, LocalPostgresError> {
        let bin = binaries::find()?;
        let temp = |prefix| {
            tempfile::Builder::new()
                .prefix(prefix)
                .tempdir()
                .map(tempfile::TempDir::keep)
                .map_err(LocalPostgresError::io(std::env::temp_dir()))
        };
        // Socket paths are at most 107 bytes long, so the socket never lives below a directory of the caller's.
        let sockets = temp("postern-pg-")?;
        let (home, temporary) = match &options.data_dir {
            Some(dir) => (absolute(dir)?, false),
            None => (sockets.clone(), true),
        };
        let run_as = RunAs::choose(&home.join("cluster"))?;
        private_dir(&sockets, run_as)?;
        private_dir(&home, run_as)?;
        let lock = lock(&home)?;
        let cluster = home.join("cluster");
        stop_left_over(&cluster, Duration::from_secs(3))?;
        initialise(&bin, &cluster, run_as, options.fsync)?;
        let supervisor = launch(&bin, run_as, &home, &sockets, temporary, &options)?;
        Ok(Self {
            bin,
            run_as,
            home,
            sockets,
            temporary,
            options,
            supervisor,
            _lock: lock,
        })
    }

    /// The URL of the maintenance database `postgres`, as its superuser.
    pub fn url(&self) -> String {
        self.database_url("postgres")
    }

    /// The URL of the database `name`, which need not exist yet. `name` is letters, digits and `_`.
    pub fn database_url(&self, name: &str) -> String {
        // The socket's directory is made here; only its temporary root can hold characters that need encoding.
        let host: String = self
            .sockets
            .to_string_lossy()
            .bytes()
            .map(|byte| match byte {
                b'/' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
                _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect();
        format!("postgres://postgres@localhost/{name}?host={host}&sslmode=disable")
    }

    /// The directory with the Postgres binaries that are used.
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    /// The server's log.
    pub fn log_path(&self) -> PathBuf {
        self.home.join("server.log")
    }

    /// Stops the server: open transactions are aborted, committed ones are safe.
    pub fn stop(mut self) {
        self.supervisor.stop();
    }

    /// Kills the server as a power cut would: SIGKILL for all of its processes, nothing flushed.
    /// [`Self::restart`] brings it back.
    pub fn kill(&mut self) -> Result<(), LocalPostgresError> {
        let pid = self.supervisor.postgres;
        // Stopped first, so that it starts no process that is then missed.
        signal(pid, Signal::STOP)?;
        let children = children(pid);
        signal(pid, Signal::KILL)?;
        for child in children {
            // One that noticed by itself and went is no error.
            let _ = signal(child, Signal::KILL);
        }
        let start = Instant::now();
        while self.supervisor.ended().is_none() {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(LocalPostgresError::Stop(pid));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Starts the server again, after [`Self::kill`] or a stop of the running one. The URL stays the same.
    ///
    /// A temporary server loses its data when it is killed, because its supervisor cleans up; give a `data_dir`
    /// to tests that restart.
    pub fn restart(&mut self) -> Result<(), LocalPostgresError> {
        self.supervisor.stop();
        private_dir(&self.sockets, self.run_as)?;
        private_dir(&self.home, self.run_as)?;
        initialise(
            &self.bin,
            &self.home.join("cluster"),
            self.run_as,
            self.options.fsync,
        )?;
        let start = Instant::now();
        loop {
            match launch(
                &self.bin,
                self.run_as,
                &self.home,
                &self.sockets,
                self.temporary,
                &self.options,
            ) {
                Ok(supervisor) => {
                    self.supervisor = supervisor;
                    return Ok(());
                }
                // The killed server's own processes end when they notice; until then their memory is in use.
                Err(LocalPostgresError::Start(_)) if start.elapsed() < Duration::from_secs(5) => {
                    private_dir(&self.sockets, self.run_as)?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for LocalPostgres {
    fn drop(&mut self) {
        self.supervisor.stop();
        // The supervisor, as an unprivileged user, may be unable to remove the directory itself. Best effort: it
        // is empty by now, and temporary.
        let _ = fs::remove_dir_all(&self.sockets);
    }
}

fn signal(pid: i32, signal: Signal) -> Result<(), LocalPostgresError> {
    let Some(process) = Pid::from_raw(pid) else {
        return Ok(());
    };
    kill_process(process, signal).map_err(|error| LocalPostgresError::Io {
        path: format!("/proc/{pid}").into(),
        source: error.into(),
    })
}

/// The processes that `pid` started, where the system lists them. Elsewhere Postgres' processes end by themselves,
/// a little later, when they notice that their parent is gone.
fn children(pid: i32) -> Vec<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}

fn absolute(dir: &Path) -> Result<PathBuf, LocalPostgresError> {
    std::path::absolute(dir).map_err(LocalPostgresError::io(dir))
}

fn lock(home: &Path) -> Result<File, LocalPostgresError> {
    let path = home.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(LocalPostgresError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LocalPostgresError::InUse(home.to_owned())),
        Err(TryLockError::Error(source)) => Err(LocalPostgresError::Io { path, source }),
    }
}

fn launch(
    bin: &Path,
    run_as: Option<RunAs>,
    home: &Path,
    sockets: &Path,
    temporary: bool,
    options: &Options,
) -> Result<Supervisor, LocalPostgresError> {
    let cluster = home.join("cluster");
    let mut arguments = vec![
        "-D".to_owned(),
        cluster.to_string_lossy().into_owned(),
        "-c".to_owned(),
        format!("unix_socket_directories={}", sockets.display()),
    ];
    let mut set = |setting: &str| arguments.extend(["-c".to_owned(), setting.to_owned()]);
    set("listen_addresses=");
    set("unix_socket_permissions=0700");
    set(&format!("max_connections={}", options.max_connections));
    set("shared_buffers=32MB");
    set("log_min_messages=warning");
    if !options.fsync {
        set("fsync=off");
        set("synchronous_commit=off");
        set("full_page_writes=off");
    }
    let log = home.join("server.log");
    let mut supervisor = Supervisor::spawn(
        run_as,
        if temporary {
            Shutdown::Immediate
        } else {
            Shutdown::Fast
        },
        // Otherwise too: the directory of the socket is of no use without the server.
        Some(sockets),
        &log,
        &bin.join("postgres"),
        &arguments,
    )?;
    let start = Instant::now();
    loop {
        if PidFile::read(&cluster).is_some_and(|file| file.pid == supervisor.postgres && file.ready) {
            return Ok(supervisor);
        }
        let ended = supervisor.ended();
        if ended.is_some() || start.elapsed() > options.start_timeout {
            let log = fs::read(&log).unwrap_or_default();
            supervisor.stop();
            return Err(LocalPostgresError::Start(match ended {
                Some(status) => format!("it ended with {status}: {}", tail(&log)),
                None => format!("not ready after {:?}: {}", options.start_timeout, tail(&log)),
            }));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One server for all tests of this process: temporary, without fsync, gone when the process is.
///
/// # Panics
/// If there is none to be had, with the command that installs it: such a test fails, it is never skipped.
#[expect(clippy::panic, reason = "for tests, which fail by panicking")]
pub fn test_server() -> &'static LocalPostgres {
    static SERVER: OnceLock<LocalPostgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        let options = Options {
            fsync: false,
            max_connections: 300,
            ..Options::default()
        };
        match LocalPostgres::start(options) {
            Ok(server) => server,
            Err(error) => panic!("{error}"),
        }
    })
}
