//! Request to open and revoke to closed, beside the bare sequence of cloud calls in the same run.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use postern_sim::{
    fault::{Effect, FaultRule, When},
    truth::Interval,
};
use serde::Serialize;

use crate::{
    bare::{aws::BareAws, azure::BareAzure},
    database::{self, Database},
    measure::progress,
    rig::{self, Closed, Opened, Rig},
    sample::{Sample, Summary},
    truth::{Ssh, milliseconds},
};

/// No part of this measurement takes longer; fewer runs are told as such.
const LONGEST: Duration = Duration::from_secs(150);
/// The pause between two runs: what the server does after it has answered is over by then.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a cloud call takes in the comparison with a cloud that is not next door.
const SLOW_CALL: Duration = Duration::from_millis(50);
/// Runs of that comparison.
const SLOW_RUNS: u32 = 12;

/// One direction on one cloud, in milliseconds from sending the request.
#[derive(Debug, Serialize)]
pub(crate) struct Direction {
    /// `azure` or `aws`.
    pub(crate) cloud: &'static str,
    /// `open` or `close`.
    pub(crate) what: &'static str,
    /// To the instant from which the truth log has the port reachable, or not reachable any more.
    pub(crate) truth: Summary,
    /// To the instant that the grant itself names as confirmed.
    pub(crate) confirmed: Summary,
    /// To the answer that tells the client.
    pub(crate) told: Summary,
    /// The bare calls, to the truth log's instant.
    pub(crate) bare_truth: Summary,
    /// The bare calls, to the end of reading back.
    pub(crate) bare: Summary,
    /// Where Postern's time goes: the stages of it, one after another.
    pub(crate) stages: Vec<Stage>,
}

/// A part of the way from sending to being told.
#[derive(Debug, Serialize)]
pub(crate) struct Stage {
    /// From what to what, for people.
    pub(crate) name: &'static str,
    /// Milliseconds.
    pub(crate) took: Summary,
}

/// The instants of one opening or closing, in the order in which they come.
struct Instants {
    sent: DateTime<Utc>,
    /// The server has authenticated the call and begins with it.
    accepted: DateTime<Utc>,
    /// The loop has read the point and planned, and begins to write the intent.
    intended: DateTime<Utc>,
    /// The cloud has it.
    truth: DateTime<Utc>,
    /// It was read back, and the loop begins to write the outcome.
    confirmed: DateTime<Utc>,
    /// The client knows.
    told: DateTime<Utc>,
}

const STAGES: [&str; 5] = [
    "call sent → accepted (connection, token)",
    "→ point read (decision, commit, wake-up, lease, read)",
    "→ in effect (intent committed, cloud writes)",
    "→ read back",
    "→ client told (outcome committed, next look)",
];

impl Instants {
    fn stages(&self) -> [f64; 5] {
        [
            milliseconds(self.sent, self.accepted),
            milliseconds(self.accepted, self.intended),
            milliseconds(self.intended, self.truth),
            milliseconds(self.truth, self.confirmed),
            milliseconds(self.confirmed, self.told),
        ]
    }
}

impl Direction {
    /// Ours over bare at the median, to reachable or unreachable.
    pub(crate) fn truth_ratio(&self) -> f64 {
        self.truth.p50 / self.bare_truth.p50
    }

    /// Ours over bare at the median, to what is read back.
    pub(crate) fn confirmed_ratio(&self) -> f64 {
        self.confirmed.p50 / self.bare.p50
    }

    /// Ours as the client sees it, over bare, at the median.
    pub(crate) fn told_ratio(&self) -> f64 {
        self.told.p50 / self.bare.p50
    }
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    /// Without added latency.
    pub(crate) quick: Vec<Direction>,
    /// With [`SLOW_CALL`] added to every cloud call.
    pub(crate) slow: Vec<Direction>,
    /// Milliseconds that were added.
    pub(crate) slow_call: u128,
    /// The log's syncs to disk for one opening and one closing, on average.
    pub(crate) syncs_per_pair: f64,
    /// The server's resident memory with the fleet guarded and nothing to do, in bytes.
    pub(crate) idle_memory: u64,
    /// The same after all the openings and closings.
    pub(crate) memory_after: u64,
    /// How many openings that were.
    pub(crate) openings: usize,
}

/// Both clouds' machines, guarded and bare.
pub(crate) struct Bench {
    rig: Rig,
    bare_azure: BareAzure,
    bare_aws: BareAws,
    idle_memory: u64,
}

/// What one side of one run needs to be placed in the truth log.
struct Sent {
    open: DateTime<Utc>,
    close: DateTime<Utc>,
}

/// What else is known of one opening and closing of ours.
struct Run {
    opened: Opened,
    closed: Closed,
}

/// One side of one cloud: ours or the bare calls.
#[derive(Default)]
struct Side {
    sent: Vec<Sent>,
    open: Sample,
    close: Sample,
    confirmed_open: Sample,
    confirmed_close: Sample,
    runs: Vec<Run>,
}

/// A cloud, in the order in which the two sides take turns.
struct Cloud<'a> {
    name: &'static str,
    machine: Ssh,
    bare_machine: Ssh,
    bare: &'a dyn Bare,
    ours: Side,
    theirs: Side,
}

/// A bare sequence of calls.
trait Bare {
    fn open(&self) -> BoxFuture<'_, anyhow::Result<()>>;
    fn close(&self) -> BoxFuture<'_, anyhow::Result<()>>;
}

impl Bare for BareAzure {
    fn open(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.open())
    }
    fn close(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.close())
    }
}

impl Bare for BareAws {
    fn open(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.open())
    }
    fn close(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.close())
    }
}

impl Bench {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let (rig, (bare_azure, bare_aws)) =
            Rig::start(async |fleet| Ok((BareAzure::build(fleet).await?, BareAws::build(fleet)?))).await?;
        rig.guard(&rig.world.machines()).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let idle_memory = rig.memory()?;
        Ok(Self {
            rig,
            bare_azure,
            bare_aws,
            idle_memory,
        })
    }

    pub(crate) const fn rig(&self) -> &Rig {
        &self.rig
    }

    pub(crate) async fn database(&self) -> anyhow::Result<Database> {
        database::describe(&self.rig.database_url()?).await
    }

    pub(crate) async fn measure(&self, runs: u32) -> anyhow::Result<Latency> {
        let url = self.rig.database_url()?;
        // The first calls open connections and fetch tokens.
        self.series("warming up", 5).await?;
        let before = database::syncs(&url).await?;
        let quick = self.series("latency", runs).await?;
        let syncs = database::syncs(&url).await? - before;
        let pairs: usize = quick
            .iter()
            .filter(|direction| direction.what == "open")
            .map(|d| d.told.n)
            .sum();

        let latency = || FaultRule {
            operation: "*".to_owned(),
            when: When::Always,
            effect: Effect::Latency(SLOW_CALL),
        };
        self.rig.world.fleet.arm.faults().add(latency());
        self.rig.world.fleet.ec2.faults().add(latency());
        let slow = self.series("latency, slow clouds", runs.min(SLOW_RUNS)).await?;
        self.rig.world.fleet.arm.faults().clear();
        self.rig.world.fleet.ec2.faults().clear();

        tokio::time::sleep(Duration::from_secs(1)).await;
        #[expect(clippy::cast_precision_loss, reason = "counts of a few thousand")]
        let syncs_per_pair = syncs as f64 / pairs as f64;
        Ok(Latency {
            openings: pairs,
            quick,
            slow,
            slow_call: SLOW_CALL.as_millis(),
            syncs_per_pair,
            idle_memory: self.idle_memory,
            memory_after: self.rig.memory()?,
        })
    }

    async fn series(&self, what: &'static str, runs: u32) -> anyhow::Result<Vec<Direction>> {
        let fleet = &self.rig.world.fleet;
        let ssh = |machine: &str| Ssh {
            machine: machine.to_owned(),
            source: [203, 0, 113, 7].into(),
        };
        let mut clouds = [
            Cloud {
                name: "azure",
                machine: ssh(&fleet.db),
                bare_machine: ssh(&self.bare_azure.machine),
                bare: &self.bare_azure,
                ours: Side::default(),
                theirs: Side::default(),
            },
            Cloud {
                name: "aws",
                machine: ssh(&fleet.app),
                bare_machine: ssh(&self.bare_aws.arn),
                bare: &self.bare_aws,
                ours: Side::default(),
                theirs: Side::default(),
            },
        ];
        let bar = progress(what, u64::from(runs));
        let start = Instant::now();
        for _ in 0..runs {
            if start.elapsed() > LONGEST {
                break;
            }
            for cloud in &mut clouds {
                self.ours(&cloud.machine, &mut cloud.ours).await?;
                theirs(cloud.bare, &mut cloud.theirs).await?;
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let mut directions = Vec::new();
        for cloud in clouds {
            directions.extend(self.directions(&cloud).await?);
        }
        Ok(directions)
    }

    async fn ours(&self, machine: &Ssh, side: &mut Side) -> anyhow::Result<()> {
        let opened = self.rig.open(&machine.machine).await?;
        tokio::time::sleep(PAUSE).await;
        let closed = self.rig.close(&opened.grant.id).await?;
        tokio::time::sleep(PAUSE).await;
        side.open.push(opened.told.as_secs_f64() * 1e3);
        side.close.push(closed.told.as_secs_f64() * 1e3);
        let opened_at = opened.grant.opened_at.context("an open grant was opened")?;
        let closed_at = closed.grant.closed_at.context("a closed grant was closed")?;
        side.confirmed_open.push(milliseconds(opened.sent, opened_at));
        side.confirmed_close.push(milliseconds(closed.sent, closed_at));
        side.sent.push(Sent {
            open: opened.sent,
            close: closed.sent,
        });
        side.runs.push(Run { opened, closed });
        Ok(())
    }

    async fn directions(&self, cloud: &Cloud<'_>) -> anyhow::Result<[Direction; 2]> {
        let fleet = &self.rig.world.fleet;
        let intervals = cloud.machine.intervals(fleet);
        let (opened, closed) = placed(&intervals, &cloud.ours.sent)?;
        let (bare_opened, bare_closed) = placed(&cloud.bare_machine.intervals(fleet), &cloud.theirs.sent)?;
        let told = |sample: &Sample| sample.summary().context("there were runs");
        let [open_stages, close_stages] = self.stages(cloud, &intervals).await?;
        Ok([
            Direction {
                cloud: cloud.name,
                what: "open",
                truth: told(&opened)?,
                confirmed: told(&cloud.ours.confirmed_open)?,
                told: told(&cloud.ours.open)?,
                bare_truth: told(&bare_opened)?,
                bare: told(&cloud.theirs.open)?,
                stages: open_stages,
            },
            Direction {
                cloud: cloud.name,
                what: "close",
                truth: told(&closed)?,
                confirmed: told(&cloud.ours.confirmed_close)?,
                told: told(&cloud.ours.close)?,
                bare_truth: told(&bare_closed)?,
                bare: told(&cloud.theirs.close)?,
                stages: close_stages,
            },
        ])
    }
}

impl Bench {
    /// The stages of openings and of closings. The intents' instants come from the audit log.
    async fn stages(&self, cloud: &Cloud<'_>, intervals: &[Interval]) -> anyhow::Result<[Vec<Stage>; 2]> {
        let since = cloud.ours.sent.first().context("there were runs")?.open;
        let intents = self.rig.intents(since).await?;
        let first_after = |instant: DateTime<Utc>| {
            let at = intents.partition_point(|intent| *intent < instant);
            intents.get(at).copied().context("each write was intended before")
        };
        let mut open: [Sample; 5] = Default::default();
        let mut close: [Sample; 5] = Default::default();
        for Run { opened, closed } in &cloud.ours.runs {
            let interval = interval_after(intervals, opened.sent)?;
            let accepted = opened.grant.created_at;
            let of_open = Instants {
                sent: opened.sent,
                accepted,
                intended: first_after(accepted)?,
                truth: interval.from,
                confirmed: opened.grant.opened_at.context("an open grant was opened")?,
                told: opened.sent + opened.told,
            };
            let accepted = closed.grant.ended_at.context("a closed grant ended")?;
            let of_close = Instants {
                sent: closed.sent,
                accepted,
                intended: first_after(accepted)?,
                truth: interval.to.context("the truth log has no end of an opening")?,
                confirmed: closed.grant.closed_at.context("a closed grant was closed")?,
                told: closed.sent + closed.told,
            };
            for (sample, value) in open.iter_mut().zip(of_open.stages()) {
                sample.push(value);
            }
            for (sample, value) in close.iter_mut().zip(of_close.stages()) {
                sample.push(value);
            }
        }
        let told = |samples: [Sample; 5]| {
            let stages = STAGES.into_iter().zip(samples);
            stages
                .map(|(name, sample)| {
                    Ok(Stage {
                        name,
                        took: sample.summary().context("there were runs")?,
                    })
                })
                .collect::<anyhow::Result<Vec<_>>>()
        };
        Ok([told(open)?, told(close)?])
    }
}

fn interval_after(intervals: &[Interval], sent: DateTime<Utc>) -> anyhow::Result<&Interval> {
    intervals
        .iter()
        .find(|interval| interval.from >= sent)
        .context("the truth log has no opening after the request")
}

async fn theirs(bare: &dyn Bare, side: &mut Side) -> anyhow::Result<()> {
    let (open, start) = (rig::now(), Instant::now());
    bare.open().await?;
    side.open.push(start.elapsed().as_secs_f64() * 1e3);
    tokio::time::sleep(PAUSE).await;
    let (close, start) = (rig::now(), Instant::now());
    bare.close().await?;
    side.close.push(start.elapsed().as_secs_f64() * 1e3);
    side.sent.push(Sent { open, close });
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

/// From each sending to the edge of its interval: openings and closings.
fn placed(intervals: &[Interval], sent: &[Sent]) -> anyhow::Result<(Sample, Sample)> {
    let (mut opened, mut closed) = (Sample::default(), Sample::default());
    for sent in sent {
        let interval = interval_after(intervals, sent.open)?;
        let end = interval.to.context("the truth log has no end of an opening")?;
        anyhow::ensure!(
            interval.from <= sent.close && sent.close <= end,
            "the port closed before it was told to"
        );
        opened.push(milliseconds(sent.open, interval.from));
        closed.push(milliseconds(sent.close, end));
    }
    Ok((opened, closed))
}
