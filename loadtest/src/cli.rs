//! The command line.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use argh::FromArgs;
use bytesize::ByteSize;

use crate::{
    compare,
    options::{Options, Shapes},
    scenario::{self, Scenario},
    target::Batch,
};

/// Measures servers of Server-Sent Events: how many subscribers they hold, what a delivery costs,
/// how fast they append. `tidewheel-loadtest COMMAND --help` lists the options of each.
#[derive(FromArgs)]
pub struct Arguments {
    /// what to measure
    #[argh(subcommand)]
    pub command: Command,
}

/// What to measure.
#[derive(FromArgs)]
#[argh(subcommand)]
pub enum Command {
    /// See [`Idle`].
    Idle(Idle),
    /// See [`Fanout`].
    Fanout(Fanout),
    /// See [`Append`].
    Append(Append),
    /// See [`Storm`].
    Storm(Storm),
    /// See [`Slow`].
    Slow(Slow),
    /// See [`Soak`].
    Soak(Soak),
    /// See [`Compare`].
    Compare(Compare),
}

/// Measures several servers in turn, the server on one processor and the load on another, and
/// writes what came of it.
#[derive(FromArgs)]
#[argh(subcommand, name = "compare")]
pub struct Compare {
    /// which servers, by their directory's name, with commas between (all)
    #[argh(option, default = "String::new()", arg_name = "names")]
    peers: String,
    /// where the scripts are that install and start them (loadtest/peers of the checkout)
    #[argh(option, default = "compare::default_peers()", arg_name = "directory")]
    peers_directory: PathBuf,
    /// how often each is measured (2)
    #[argh(option, default = "2")]
    rounds: usize,
    /// how many subscribers; slow servers get fewer (10000)
    #[argh(option, default = "10_000")]
    subscribers: usize,
    /// the server's processor (0)
    #[argh(option, default = "0")]
    server_core: usize,
    /// the load's processor (1)
    #[argh(option, default = "1")]
    load_core: usize,
    /// where the results go (docs/runs/DATE-MACHINE)
    #[argh(option, default = "compare::default_out()", arg_name = "directory")]
    out: PathBuf,
    /// make each measurement as short as it can be: whether it works, no figures to quote
    #[argh(switch)]
    quick: bool,
}

impl From<Compare> for compare::Compare {
    fn from(arguments: Compare) -> Self {
        let names = arguments.peers.split(',').map(str::trim).filter(|name| !name.is_empty());
        Self {
            peers: names.map(str::to_owned).collect(),
            peers_directory: arguments.peers_directory,
            rounds: arguments.rounds,
            subscribers: arguments.subscribers,
            server_core: arguments.server_core,
            load_core: arguments.load_core,
            out: arguments.out,
            quick: arguments.quick,
        }
    }
}

/// Makes a subcommand of its own options and of those that all have in common, since argh knows
/// no options that are shared.
macro_rules! subcommand {
    ($(#[$meta:meta])* $name:ident { $($own:tt)* }) => {
        #[derive(FromArgs)]
        $(#[$meta])*
        pub struct $name {
            $($own)*
            /// the server, by default `http://127.0.0.1:8000`
            #[argh(option, default = "Options::default().server", arg_name = "url")]
            server: String,
            /// whose shapes of requests to begin with: tidewheel (default), plain, nchan, mercure,
            /// durable-streams, pushpin
            #[argh(option, default = "Options::default().preset", arg_name = "name")]
            preset: String,
            /// URL of a stream; {{run}} is the stream's name, {{n}} the subscriber's number
            #[argh(option, arg_name = "url")]
            subscribe: Option<String>,
            /// further header of that request, any number of them
            #[argh(option, arg_name = "name: value")]
            subscribe_header: Vec<String>,
            /// method and URL of a publish
            #[argh(option, arg_name = "method url")]
            publish: Option<String>,
            /// its Content-Type
            #[argh(option, arg_name = "media type")]
            publish_type: Option<String>,
            /// its further header, any number of them
            #[argh(option, arg_name = "name: value")]
            publish_header: Vec<String>,
            /// its body; {{payload}} is a JSON object, {{run}} the stream's name
            #[argh(option, arg_name = "template")]
            publish_body: Option<String>,
            /// method and URL that make a stream, or none
            #[argh(option, arg_name = "method url")]
            create: Option<String>,
            /// the body of that request
            #[argh(option, arg_name = "template")]
            create_body: Option<String>,
            /// the field of its JSON answer that names the stream, or none
            #[argh(option, arg_name = "field")]
            create_field: Option<String>,
            /// how several events are published at once: array, ndjson or single
            #[argh(option, arg_name = "how")]
            batch_as: Option<Batch>,
            /// how a subscriber comes back: none, header (Last-Event-ID), or a path and query with
            /// {{cursor}}
            #[argh(option, arg_name = "how")]
            resume: Option<String>,
            /// where its cursor is: id, or EVENT.FIELD of an event's JSON
            #[argh(option, arg_name = "where")]
            cursor: Option<String>,
            /// wait for the answer before the next request on a connection
            #[argh(switch)]
            no_pipelining: bool,
            /// load processes; by default as many as the file limit asks for
            #[argh(option)]
            processes: Option<usize>,
            /// source address, any number of them; by default all of 127.0.0.0/8 towards loopback
            #[argh(option, arg_name = "address")]
            bind: Vec<IpAddr>,
            /// connections that may be opening at a time (1,000)
            #[argh(option, default = "Options::default().in_flight")]
            in_flight: usize,
            /// how long one may take to open (30s)
            #[argh(option, default = "Options::default().timeout", from_str_fn(parse_duration))]
            timeout: Duration,
            /// an event is late when it comes so long after it was due (500ms)
            #[argh(option, default = "Options::default().stall", from_str_fn(parse_duration))]
            stall: Duration,
            /// how long all is left alone before memory is read, since allocators give back with a
            /// delay (2s)
            #[argh(option, default = "Options::default().settle", from_str_fn(parse_duration))]
            settle: Duration,
            /// length of a payload, in bytes or like 4KB (100)
            #[argh(option, default = "Options::default().payload_bytes",
                from_str_fn(parse_length), arg_name = "size")]
            payload: usize,
            /// the server's process, any number of them; by default those that listen at its port
            #[argh(option, arg_name = "pid")]
            server_pid: Vec<u32>,
            /// write the report to this file as JSON
            #[argh(option, arg_name = "file")]
            json: Option<PathBuf>,
            /// write the report to this file as a page
            #[argh(option, arg_name = "file.html")]
            report: Option<PathBuf>,
        }

        impl $name {
            fn options(&self) -> Options {
                Options {
                    server: self.server.clone(),
                    preset: self.preset.clone(),
                    shapes: Shapes {
                        subscribe: self.subscribe.clone(),
                        subscribe_headers: self.subscribe_header.clone(),
                        publish: self.publish.clone(),
                        publish_type: self.publish_type.clone(),
                        publish_headers: self.publish_header.clone(),
                        publish_body: self.publish_body.clone(),
                        create: self.create.clone(),
                        create_body: self.create_body.clone(),
                        create_field: self.create_field.clone(),
                        batch_as: self.batch_as,
                        resume: self.resume.clone(),
                        cursor: self.cursor.clone(),
                        no_pipelining: self.no_pipelining,
                    },
                    processes: self.processes,
                    bind: self.bind.clone(),
                    in_flight: self.in_flight,
                    timeout: self.timeout,
                    stall: self.stall,
                    settle: self.settle,
                    payload_bytes: self.payload,
                    server_pids: self.server_pid.clone(),
                    json: self.json.clone(),
                    report: self.report.clone(),
                }
            }
        }
    };
}

subcommand! {
    /// Opens subscribers, holds them and closes them: how many there can be, what one costs.
    #[argh(subcommand, name = "idle")]
    Idle {
        /// how many (1000)
        #[argh(option, default = "1_000")]
        subscribers: usize,
        /// streams that they share (1)
        #[argh(option, default = "1")]
        streams: usize,
        /// how many to open a second; by default as fast as they are answered
        #[argh(option)]
        rate: Option<f64>,
        /// how long to hold them (20s)
        #[argh(option, default = "Duration::from_secs(20)", from_str_fn(parse_duration))]
        hold: Duration,
    }
}

subcommand! {
    /// Publishes on a schedule to many subscribers: delivery latency, and what a delivery costs.
    #[argh(subcommand, name = "fanout")]
    Fanout {
        /// how many subscribers (1000)
        #[argh(option, default = "1_000")]
        subscribers: usize,
        /// streams that they share (1)
        #[argh(option, default = "1")]
        streams: usize,
        /// events a second over all streams (10)
        #[argh(option, default = "10.0")]
        events: f64,
        /// events published at once (1)
        #[argh(option, default = "1")]
        batch: usize,
        /// how long to publish (10s)
        #[argh(option, default = "Duration::from_secs(10)", from_str_fn(parse_duration))]
        duration: Duration,
        /// how long nothing may happen before what has not come is missing (10s)
        #[argh(option, default = "Duration::from_secs(10)", from_str_fn(parse_duration))]
        drain: Duration,
    }
}

subcommand! {
    /// Appends on many connections: events a second, and how long an answer takes.
    #[argh(subcommand, name = "append")]
    Append {
        /// how many connections (64)
        #[argh(option, default = "64")]
        connections: usize,
        /// requests under way on each (1)
        #[argh(option, default = "1")]
        depth: usize,
        /// events a request (1)
        #[argh(option, default = "1")]
        batch: usize,
        /// how a batch is written: array, ndjson or single; by default as the preset has it
        #[argh(option)]
        format: Option<Batch>,
        /// streams that they append to (1)
        #[argh(option, default = "1")]
        runs: usize,
        /// events a second; by default as fast as answers come
        #[argh(option)]
        rate: Option<f64>,
        /// how long (10s)
        #[argh(option, default = "Duration::from_secs(10)", from_str_fn(parse_duration))]
        duration: Duration,
        /// do not read the streams afterwards to look whether all is there
        #[argh(switch)]
        no_verify: bool,
    }
}

subcommand! {
    /// Cuts all subscribers and lets them come back at once: how long until all have caught up.
    #[argh(subcommand, name = "storm")]
    Storm {
        /// how many subscribers (1000)
        #[argh(option, default = "1_000")]
        subscribers: usize,
        /// streams that they share (1)
        #[argh(option, default = "1")]
        streams: usize,
        /// events of each stream that they miss meanwhile (100)
        #[argh(option, default = "100")]
        behind: usize,
        /// shell command to run while they are away, for instance one that restarts the server
        #[argh(option, arg_name = "command")]
        while_cut: Option<String>,
        /// how long nothing may happen before what has not come is missing (30s)
        #[argh(option, default = "Duration::from_secs(30)", from_str_fn(parse_duration))]
        drain: Duration,
    }
}

subcommand! {
    /// Lets some subscribers stop reading while much is published to them, and read on later: what
    /// that costs the server and the others.
    #[argh(subcommand, name = "slow")]
    Slow {
        /// how many subscribers read all the time (1000)
        #[argh(option, default = "1_000")]
        subscribers: usize,
        /// streams that they share (1)
        #[argh(option, default = "1")]
        streams: usize,
        /// events a second for them, over all their streams (10)
        #[argh(option, default = "10.0")]
        events: f64,
        /// how many further ones stop reading, on a stream of their own (100)
        #[argh(option, default = "100")]
        stalled: usize,
        /// how much is published to those meanwhile (100MB)
        #[argh(option, default = "100_000_000", from_str_fn(parse_size), arg_name = "size")]
        bytes: u64,
        /// length of a payload of that (4KB)
        #[argh(option, default = "4_000", from_str_fn(parse_length), arg_name = "size")]
        bulk_payload: usize,
        /// events of that published at once (16)
        #[argh(option, default = "16")]
        bulk_batch: usize,
        /// how much of that to publish a second; by default as fast as answers come
        #[argh(option, from_str_fn(parse_size), arg_name = "size")]
        bulk_rate: Option<u64>,
        /// how long those that read are measured before (5s)
        #[argh(option, default = "Duration::from_secs(5)", from_str_fn(parse_duration))]
        quiet: Duration,
        /// how long the others do not read on after all is published (5s)
        #[argh(option, default = "Duration::from_secs(5)", from_str_fn(parse_duration))]
        hold: Duration,
        /// how many of them read on, a number or all; the rest is closed (all)
        #[argh(option, default = "usize::MAX", from_str_fn(parse_share), arg_name = "count")]
        read_on: usize,
        /// how long nothing may happen before what has not come is missing (30s)
        #[argh(option, default = "Duration::from_secs(30)", from_str_fn(parse_duration))]
        drain: Duration,
    }
}

subcommand! {
    /// Subscribers that come and go while events are published, for a long time.
    #[argh(subcommand, name = "soak")]
    Soak {
        /// how many subscribers (1000)
        #[argh(option, default = "1_000")]
        subscribers: usize,
        /// streams that they share (10)
        #[argh(option, default = "10")]
        streams: usize,
        /// events a second over all streams (20)
        #[argh(option, default = "20.0")]
        events: f64,
        /// subscribers a second that leave and come back (10)
        #[argh(option, default = "10.0")]
        churn: f64,
        /// how often a tenth of all leaves and comes back at once (1m)
        #[argh(option, default = "Duration::from_secs(60)", from_str_fn(parse_duration))]
        storm_every: Duration,
        /// events a second that are appended to other streams meanwhile (50)
        #[argh(option, default = "50.0")]
        appends: f64,
        /// how long (10m)
        #[argh(option, default = "Duration::from_secs(600)", from_str_fn(parse_duration))]
        duration: Duration,
        /// how long nothing may happen before what has not come is missing (30s)
        #[argh(option, default = "Duration::from_secs(30)", from_str_fn(parse_duration))]
        drain: Duration,
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn parse_size(text: &str) -> Result<u64, String> {
    text.parse().map(|size: ByteSize| size.as_u64())
}

fn parse_length(text: &str) -> Result<usize, String> {
    usize::try_from(parse_size(text)?).map_err(|error| error.to_string())
}

/// A number, or `all`.
fn parse_share(text: &str) -> Result<usize, String> {
    if text == "all" {
        return Ok(usize::MAX);
    }
    text.parse().map_err(|_| format!("`{text}` is neither a number nor all"))
}

/// What a command line asks for.
pub enum Task {
    /// One measurement, and the options that all have.
    Measure(Box<dyn Scenario>, Box<Options>),
    /// Servers side by side.
    Compare(compare::Compare),
}

impl Command {
    /// What it asks for.
    pub fn task(self) -> Task {
        let (scenario, options): (Box<dyn Scenario>, _) = match self {
            Self::Compare(compare) => return Task::Compare(compare.into()),
            Self::Idle(idle) => {
                let options = idle.options();
                let Idle { subscribers, streams, rate, hold, .. } = idle;
                (Box::new(scenario::Idle { subscribers, streams, rate, hold }), options)
            }
            Self::Fanout(fanout) => {
                let options = fanout.options();
                let Fanout { subscribers, streams, events, batch, duration, drain, .. } = fanout;
                let events_per_second = events;
                let fanout = scenario::Fanout {
                    subscribers,
                    streams,
                    events_per_second,
                    batch,
                    duration,
                    drain,
                };
                (Box::new(fanout), options)
            }
            Self::Append(append) => {
                let options = append.options();
                let Append { connections, depth, batch, format, runs, rate, duration, .. } = append;
                let verify = !append.no_verify;
                let append = scenario::Append {
                    connections,
                    depth,
                    batch,
                    format,
                    runs,
                    rate,
                    duration,
                    verify,
                };
                (Box::new(append), options)
            }
            Self::Storm(storm) => {
                let options = storm.options();
                let Storm { subscribers, streams, behind, while_cut, drain, .. } = storm;
                let storm = scenario::Storm { subscribers, streams, behind, while_cut, drain };
                (Box::new(storm), options)
            }
            Self::Slow(slow) => {
                let options = slow.options();
                let Slow { subscribers, streams, stalled, bytes, bulk_batch, .. } = slow;
                let Slow { bulk_rate, quiet, hold, read_on, drain, .. } = slow;
                let slow = scenario::Slow {
                    subscribers,
                    streams,
                    stalled,
                    events_per_second: slow.events,
                    bytes,
                    bulk_payload_bytes: slow.bulk_payload,
                    bulk_batch,
                    bulk_rate,
                    quiet,
                    hold,
                    read_on,
                    drain,
                };
                (Box::new(slow), options)
            }
            Self::Soak(soak) => {
                let options = soak.options();
                let Soak { subscribers, streams, events, churn, storm_every, .. } = soak;
                let soak = scenario::Soak {
                    subscribers,
                    streams,
                    events_per_second: events,
                    churn,
                    storm_every,
                    appends_per_second: soak.appends,
                    duration: soak.duration,
                    drain: soak.drain,
                };
                (Box::new(soak), options)
            }
        };
        Task::Measure(scenario, Box::new(options))
    }
}
