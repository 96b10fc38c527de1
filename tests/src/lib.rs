//! Black-box suites: the server over real sockets, with kill -9, foreign clients and hostile input.
