//! Every bound of the server, in one place, unit last.
//!
//! A bound that an operator may move is a setting and stands in `config/mod.rs`; the others are part
//! of the shape of the server. Each says how it was derived.

use std::time::Duration;

/// Longest request line and header section, in bytes. Twice what common proxies allow by default
/// (8 KiB), so that a proxy refuses before the server does.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Most header fields in a request: curl and browsers send about 20, proxies add about 10.
pub const HEADERS_MAX: usize = 100;
/// Longest request target, in bytes (414 above): RFC 9110 §4.1 asks for at least 8,000 octets.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
/// Longest line that announces a chunk (size and extensions), in bytes. A size takes at most 16
/// digits; extensions are ignored and have no known use.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Longest trailer section after the last chunk, in bytes. It is read and ignored.
pub const TRAILER_BYTES_MAX: usize = 4 * 1024;
/// Bytes asked of the kernel in one read of a request.
pub const READ_BYTES: usize = 16 * 1024;
/// Unread request bytes that are thrown away, at most, so that an early answer reaches the client
/// before the close (RFC 9112 §9.6).
pub const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long they are waited for, in milliseconds.
pub const LINGER_MS_MAX: u64 = 2_000;
/// Memory that one stored event occupies beside its payload, in bytes, for the bound on the queue.
pub const EVENT_OVERHEAD_BYTES: usize = 128;

/// Longest event type, project or session label: see [`crate::event::Label`].
pub const EVENT_TYPE_BYTES_MAX: usize = 64;
/// Longest project or session label, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;
/// Deepest nesting of a payload, as the contract has it: common parsers stop at 128 to 1,000.
pub const PAYLOAD_DEPTH_MAX: usize = 128;
/// Longest `Idempotency-Key` and `Producer-Id`, in bytes.
pub const KEY_BYTES_MAX: usize = 255;
/// Producers that a run remembers: those that were heard of last. Each costs about 100 bytes.
pub const PRODUCERS_PER_RUN_MAX: usize = 1_024;
/// Most events in one JSON array: with NDJSON there is no bound, so this only keeps one atomic
/// unit from holding up the others.
pub const ARRAY_EVENTS_MAX: usize = 10_000;
/// Events of an NDJSON body that are appended as one batch, at most.
pub const NDJSON_BATCH_EVENTS_MAX: usize = 4_096;
/// Bytes of an NDJSON body that are appended as one batch, at most.
pub const NDJSON_BATCH_BYTES_MAX: usize = 1024 * 1024;

/// How long an NDJSON body may pause, in seconds: a job may be silent for hours. Whether its host
/// is still there is asked by the kernel.
pub const UPLOAD_SILENCE_SECONDS_MAX: u64 = 24 * 60 * 60;

/// The least that a body which is read in full brings on average, in bytes a second, after
/// `body_timeout`: what a poor mobile connection does. Without it a byte now and then would hold a
/// connection for ever.
pub const BODY_BYTES_A_SECOND_MIN: u64 = 500;

/// Most events in a page of `GET /runs/{id}/events`.
pub const PAGE_EVENTS_MAX: usize = 1_000;
/// Most bytes in such a page.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most runs in a page of `GET /runs`.
pub const PAGE_RUNS_MAX: usize = 1_000;
/// Longest long poll, in seconds.
pub const WAIT_SECONDS_MAX: u64 = 60;
/// Most runs that one stream may name with `?runs=`.
pub const STREAM_RUNS_MAX: usize = 64;
/// Most event types that one stream may name with `?types=`.
pub const STREAM_TYPES_MAX: usize = 64;

/// Requests in the journal writer's queue, at most, in events. Further ones wait for room.
pub const WRITE_QUEUE_EVENTS_MAX: usize = 256 * 1024;
/// The same in bytes.
pub const WRITE_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a request waits for room there, in seconds (503 above): longer than a disk stalls now
/// and then, and shorter than the patience of most clients. What it holds meanwhile is its own
/// body, so all of them hold no more than `max_connections` times `max_body_bytes`.
pub const WRITE_ROOM_SECONDS_MAX: u64 = 5;
/// Events in one group commit, at most: at some 2 µs an event the rest of the queue waits 8 ms.
pub const COMMIT_EVENTS_MAX: usize = 4_096;
/// Payload bytes in one group commit, at most.
pub const COMMIT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A journal value is closed when it has reached this many bytes: redb gives a value a
/// power-of-two number of bytes, so one just under 64 KiB wastes least.
pub const VALUE_BYTES_TARGET: usize = 65_000;
/// A window is made when the first event of the log is a tenth of `max_age` old, but at least this
/// and at most that: whole windows go when they are too old.
pub const WINDOW_AGE_MIN: Duration = Duration::from_secs(1);
/// See [`WINDOW_AGE_MIN`].
pub const WINDOW_AGE_MAX: Duration = Duration::from_hours(1);
/// Values that are removed from the log in one transaction, at some 3 µs each: a commit waits for it.
pub const REMOVE_VALUES: usize = 256;
/// Between two such transactions.
pub const KEEPER_PAUSE: Duration = Duration::from_millis(1);
/// The writer waits for its keeper when the log has so many windows' bytes …
pub const LOG_WINDOWS_MAX: u64 = 4;
/// … but no longer than this for each commit.
pub const KEEPER_WAIT_MAX: Duration = Duration::from_millis(20);
/// Between two windows that are swept for what is no longer kept.
pub const SWEEP_PAUSE: Duration = Duration::from_millis(100);
/// How long the journal's keeper waits for room on a full disk.
pub const KEEPER_RETRY: Duration = Duration::from_secs(10);
/// How long the log may grow while a backup holds the keeper: at a steady 10 MB a second that is a
/// hundred seconds, and a start reads it in some seconds.
pub const HELD_LOG_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// How often the keeper looks how long that is, while it is held.
pub const KEEPER_HELD_PAUSE: Duration = Duration::from_millis(200);
/// How often a backup asks whether the keeper has come to rest, in milliseconds.
pub const HOLD_PAUSE_MS: u64 = 20;
/// Its priority: about a tenth of the share of a worker or the writer, where they compete.
pub const KEEPER_NICENESS: i32 = 10;
/// A block of a window is closed when it has reached this many bytes: just under 16 KiB, as for a
/// value. Reading one run of thousands reads a block for the few events that it has in a window.
pub const BLOCK_BYTES_TARGET: usize = 16_200;
/// The log's values become a window when they have this many bytes, unless a setting says otherwise:
/// a window is made in memory.
pub const WINDOW_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes that are written in one transaction while a window is made: a commit may have to wait for
/// the disk to take them.
pub const SLICE_BYTES: usize = 1024 * 1024;
/// Rows that are removed in one transaction.
pub const SLICE_ROWS: usize = 64;
/// Events of windows that are put in order at a time, in bytes and in number.
pub const COLD_BATCH_BYTES: usize = 32 * 1024;
/// The same in events.
pub const COLD_BATCH_EVENTS_MAX: usize = 512;
/// Windows that one read goes over, at most: a filter may pass nothing of many.
pub const READ_WINDOWS_MAX: usize = 16;
/// A frame of a backup is closed when it has reached this many bytes: one read of the store, of
/// about a millisecond.
pub const BACKUP_FRAME_BYTES: usize = 256 * 1024;
/// Longest content of such a frame: one value, or one row, more than that.
pub const BACKUP_FRAME_BYTES_MAX: usize = 2 * COMMIT_BYTES_MAX;
/// Bytes that a restore, or an import, writes in one transaction.
pub const RESTORE_COMMIT_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of lines that an export makes before it writes them.
pub const EXPORT_BYTES: usize = 1024 * 1024;
/// How often a file is asked for what it has to spare, at most: each time gives back less.
pub const COMPACTIONS_MAX: usize = 16;
/// redb's page cache for the log, in bytes: it counts as our memory, and the kernel caches the file
/// anyway.
pub const LOG_CACHE_BYTES: usize = 24 * 1024 * 1024;
/// The same for the cold part, of which a replay reads most blocks once.
pub const COLD_CACHE_BYTES: usize = 8 * 1024 * 1024;
/// A change of rows that adds less than this is made although the disk is full: it removes more.
pub const REMOVAL_BYTES: u64 = 256 * 1024;
/// Room that the journal always holds on the disk, in bytes: redb's pages beside the values, and a
/// transaction that is made while another one's room is being held.
pub const DISK_RESERVE_BYTES: u64 = 16 * 1024 * 1024;
/// What the reserve grows by, and the least that it gives back at once when the disk is full, in
/// bytes: a write may need blocks for the file system's own books.
pub const RESERVE_PIECE_BYTES: u64 = 256 * 1024;
/// Runs looked at in one go while the catalog is locked: at some 100 ns a run, 0.1 ms.
pub const CATALOG_SLICE_RUNS: usize = 1_024;
/// Bytes of metadata copied in one go while the catalog is locked.
pub const CATALOG_SLICE_BYTES: usize = 256 * 1024;
/// Idempotency keys kept, by default. Each costs about 200 bytes.
pub const IDEMPOTENCY_KEYS: usize = 100_000;
/// How long idempotency keys are kept, in seconds.
pub const IDEMPOTENCY_SECONDS: u64 = 24 * 60 * 60;
/// Threads that read history.
pub const HISTORY_READERS: usize = 2;
/// Reads waiting for a history reader, at most, over all workers.
pub const HISTORY_QUEUE_MAX: usize = 65_536;

/// Size of one segment of a tail, in bytes; an event larger than this has a segment of its own.
pub const TAIL_SEGMENT_BYTES: usize = 64 * 1024;
/// Distance between two entries of a segment's index of offsets to ids, in bytes.
pub const TAIL_MARK_BYTES: usize = 4 * 1024;
/// Bytes kept in the tail of one view, at most.
pub const TAIL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes kept in the tails of one worker, at most.
pub const TAILS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of history that a view reads into its tail when it is made.
pub const TAIL_FILL_BYTES: usize = 256 * 1024;
/// Journal values that a view reads for that, at most: a filter may match nothing in any of them.
pub const TAIL_FILL_VALUES_MAX: usize = 64;
/// Bytes of one chunk of replayed history.
pub const REPLAY_CHUNK_BYTES: usize = 64 * 1024;
/// Journal values that one chunk looks at, at most, so that a filter which matches nothing still
/// gives its reader thread back.
pub const REPLAY_CHUNK_VALUES_MAX: usize = 256;
/// Chunks of replayed history in memory at one time, at most, in each worker (8 MiB).
pub const REPLAY_CHUNKS_MAX: usize = 128;
/// How far, in ids, the cursor of a quiet stream may fall behind the journal before the stream
/// says where it is (`stream.cursor`).
pub const CURSOR_LAG_IDS: u64 = 1_000;

/// Commits that a view remembers the time of while it delivers their events, at most: a round over
/// all subscribers takes some tens of commits where many come at once.
pub const STAMPS_MAX: usize = 64;

/// Sends submitted to the kernel at one time while requests come in: 128 × 6 µs hold up one of them
/// for 0.8 ms.
pub const SEND_SLICE_MIN: usize = 128;
/// The same while nothing else happens, at most. Fewer cost up to a tenth more a delivery, more
/// gain nothing, and who then comes waits for 3 ms once.
pub const SEND_SLICE_MAX: usize = 512;
/// Entries of the stream ring's submission queue: a slice of sends and the polls that it arms.
pub const RING_SUBMISSION_ENTRIES: u32 = 1_024;
/// Entries of its completion queue. More completions than this wait in the kernel.
pub const RING_COMPLETION_ENTRIES: u32 = 16 * 1_024;
/// Bytes that the kernel takes for a connection and has not sent yet, at most. Without a bound it
/// takes up to 4 MB for a subscriber that does not read, and a thousand such bring all connections
/// of a machine with 24 GiB to a halt. A segment of a tail fits, so that one send offers enough for
/// a fast reader.
pub const UNSENT_BYTES_MAX: u32 = 64 * 1024;
/// Connections accepted at one time, at most, before the others are served.
pub const ACCEPT_BATCH_MAX: usize = 64;
/// Connections that may wait in the kernel to be accepted: enough for a storm of reconnects.
pub const LISTEN_BACKLOG: i32 = 65_535;
/// How long a server that stops listening waits for those who are about to connect, in milliseconds:
/// a client's acknowledgement is there after one round trip, and few of them take longer.
pub const HANDSHAKE_MS: u64 = 300;
/// How long a server that starts waits for its address to become free, in milliseconds.
pub const BIND_PATIENCE_MS: u64 = 1_000;
/// How often an `io_uring` for which there is not enough locked memory is tried again: that of a
/// process that has just ended is given back a moment later.
pub const RING_ATTEMPTS_MAX: u32 = 50;
/// How long to wait before each of these attempts, in milliseconds.
pub const RING_PAUSE_MS: u64 = 20;
/// Files that a server needs beside its connections: the journal's, a few for each of up to 64
/// workers, and some to spare.
pub const FILES_RESERVED: u64 = 128;
/// Connections that are refused and answered at one time, when `max_connections` leaves no room for
/// more of them (but a quarter of the open files at most): enough for a crowd, of which each is
/// answered within milliseconds. Further ones are closed at once.
pub const SURPLUS_CONNECTIONS: u64 = 256;
/// What `accept_rate` allows in one burst, in milliseconds of it: all the tabs of an office come back
/// at once, and a second's worth of connections is what the rate says can be borne.
pub const ACCEPT_BURST_MS: u64 = 1_000;
/// Parts of the table of addresses, each behind a lock: as many as workers that are likely to meet.
pub const ADDRESS_SHARDS: usize = 16;
/// How long accepting pauses when the process has no file descriptor left, in milliseconds.
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// How often a worker complains of that, in seconds: once every so long.
pub const ACCEPT_WARNING_SECONDS: u64 = 60;

/// Streams for which a worker sets room aside when it starts, unless there can only be fewer: a hundred
/// bytes each, which take no memory before they are used. A list that doubles moves, and what it then
/// has to spare was found to be resident.
pub const STREAMS_RESERVED_MAX: usize = 1 << 20;
/// Connections that must have come to rest or gone before memory is given back for them: some
/// hundred KiB of requests.
pub const GIVE_BACK_CONNECTIONS_MIN: u32 = 64;
/// How long none may have come to rest or gone before that, in milliseconds, so that it is done
/// once after a storm and not in the middle of it.
pub const GIVE_BACK_WAIT_MS: u64 = 500;

/// Bytes of the log that wait to be written, at most: some six thousand lines. What comes when nobody
/// reads standard error is left out and counted.
pub const LOG_QUEUE_BYTES_MAX: usize = 1024 * 1024;
/// How long the end of the program waits for the log, in milliseconds.
pub const LOG_FLUSH_MS_MAX: u64 = 1_000;
/// Lines of a kind that clients can cause which each worker logs at once, at most …
pub const LOG_LINES_BURST: u64 = 1_000;
/// … and in each second after that: at 150 bytes a line some 250 MB a day.
pub const LOG_LINES_PER_SECOND: u64 = 20;
/// How long a connection that has not asked for anything yet may still do so when the server drains,
/// in milliseconds: its request may be on the way, and some browsers connect without one.
pub const FIRST_REQUEST_MS: u64 = 1_000;
/// How long after `drain_window` the last requests may take, in milliseconds, before their
/// connections are cut off: as long as one waits for room in the journal's queue.
pub const DRAIN_PATIENCE_MS: u64 = 5_000;

/// One tick of the timer wheel, in milliseconds.
pub const TICK_MS: u64 = 10;
/// Slots of the timer wheel (a lap is 41 s): a multiple of 64, for the bitmap.
pub const WHEEL_SLOTS: usize = 4_096;
/// How long a stream that is drained, or in whose place there is a newer one, may take to come to the
/// end of its event, and then to accept its goodbye, in milliseconds. A goodbye is some twenty to
/// seventy bytes: who has no room for them is not waited for.
pub const GOODBYE_MS_MAX: u64 = 1_000;
/// Keepalives of this time go out together, in milliseconds: of 20,000 subscribers some sixty-five,
/// for a fifth less than in steps of 20 ms. Longer ones would show as peaks.
pub const KEEPALIVE_STEP_MS: u64 = 50;
/// A keepalive interval longer than this is wanted for its silence, in milliseconds: the first
/// keepalive comes no earlier in it than all others.
pub const KEEPALIVE_LONG_MS: u64 = 60_000;
/// How long a subscriber is left alone for which the kernel had no memory, in milliseconds.
pub const STARVED_MS: u64 = 100;
/// Interval of the events of the probe stream, in milliseconds.
pub const PROBE_INTERVAL_MS: u64 = 5_000;

/// Events that `tidewheel append` posts as one array, at most: enough that a flood is not slowed
/// by round trips, and well under [`ARRAY_EVENTS_MAX`].
pub const CLIENT_BATCH_EVENTS_MAX: usize = 1_000;
/// Bytes of such an array, at most, unless it is a single event.
pub const CLIENT_BATCH_BYTES_MAX: usize = 512 * 1024;
/// Bytes of events that it holds while they wait to be sent, at most; then it stops reading.
pub const CLIENT_QUEUE_BYTES_MAX: usize = 4 * CLIENT_BATCH_BYTES_MAX;
/// Longest line that it reads: the largest event that any server can be set to take.
pub const CLIENT_LINE_BYTES_MAX: usize = COMMIT_BYTES_MAX;
/// Longest event, and longest line, of a stream that `tidewheel tail` reads, in bytes: that event
/// and its envelope.
pub const CLIENT_FRAME_BYTES_MAX: usize = 2 * COMMIT_BYTES_MAX;
/// Bytes of an answer that the client commands read, at most: a page of runs, or a problem.
pub const CLIENT_ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Longest wait before a reconnect that `tidewheel tail` takes from a server, in milliseconds.
pub const CLIENT_RETRY_MS_MAX: u64 = 10 * 60 * 1_000;
/// Longest time that `tidewheel check` watches or waits, in seconds: a day.
pub const CHECK_SECONDS_MAX: u64 = 24 * 60 * 60;
/// Events of the probe that it remembers: those of that time.
pub const CHECK_PROBES_MAX: usize = (CHECK_SECONDS_MAX * 1_000 / PROBE_INTERVAL_MS) as usize + 1;
/// Bytes that it reads of an answer that is no stream: enough for the title of an error page.
pub const CHECK_EXCERPT_BYTES_MAX: u64 = 4 * 1024;
/// Events that it appends while it drops a stream and comes back.
pub const CHECK_EVENTS: u64 = 24;
