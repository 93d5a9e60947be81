//! Which events a stream has: of which runs, of which types.

use crate::support::{Server, Sse};

#[test]
fn projects_sessions_and_all_are_streams_over_their_runs() {
    for server in Server::with_each_driver(&[]) {
        let labelled = |project: &str, session: &str| {
            server.new_run_with(&format!(r#"{{"project":"{project}","session":"{session}"}}"#))
        };
        let runs = [labelled("p", "s"), labelled("p", "t"), labelled("q", "s"), server.new_run()];
        let streams: [(&str, &[usize]); 6] = [
            ("/projects/p/events/stream", &[0, 1]),
            ("/projects/q/events/stream", &[2]),
            ("/api/sse/session/s", &[0, 2]),
            ("/events/stream", &[0, 1, 2, 3]),
            ("/events/stream?runs=4,2", &[1, 3]),
            ("/runs/3/events/stream", &[2]),
        ];
        let mut live: Vec<Sse> = streams.iter().map(|(path, _)| server.stream(path)).collect();
        let mut events: Vec<(u64, usize)> = vec![(1, 0), (2, 1), (3, 2), (4, 3)];
        for round in 0..8 {
            let of = (round * 3) % 4;
            events.push((server.append(runs[of], "A", "1"), of));
        }
        for ((path, of), stream) in streams.iter().zip(&mut live) {
            let expected: Vec<u64> =
                events.iter().filter(|(_, run)| of.contains(run)).map(|(id, _)| *id).collect();
            assert_eq!(stream.ids(expected.len()), expected, "{path}, live");
            let mut replayed = server.stream(path);
            assert_eq!(replayed.ids(expected.len()), expected, "{path}, replayed");
        }
    }
}

#[test]
fn a_run_that_is_created_later_is_in_the_streams_of_its_labels() {
    let server = Server::start();
    let mut streams = [
        server.stream("/projects/later/events/stream"),
        server.stream("/api/sse/session/later"),
        server.stream("/events/stream"),
    ];
    let run = server.new_run_with(r#"{"project":"later","session":"later"}"#);
    let id = server.append(run, "A", "1");
    for stream in &mut streams {
        assert_eq!(stream.ids(2), [id - 1, id]);
    }
}

#[test]
fn streams_over_labels_go_on_after_a_run_has_ended() {
    let server = Server::start();
    let run = server.new_run_with(r#"{"project":"p","session":"s"}"#);
    let mut streams = [
        server.stream("/projects/p/events/stream"),
        server.stream("/api/sse/session/s"),
        server.stream("/events/stream"),
    ];
    server.end(run, "completed").expect(200);
    let next = server.new_run_with(r#"{"project":"p","session":"s"}"#);
    for stream in &mut streams {
        assert_eq!(stream.ids(3), [1, 2, 3]);
    }
    server.delete(&format!("/runs/{next}")).expect(204);
    let last = server.new_run_with(r#"{"project":"p","session":"s"}"#);
    for stream in &mut streams {
        let event = stream.event().unwrap();
        assert_eq!(event.json()["run_id"], last);
    }
}

#[test]
fn only_the_types_that_are_asked_for_and_the_closing_event() {
    for server in Server::with_each_driver(&[]) {
        let run = server.new_run_with(r#"{"project":"p"}"#);
        let other = server.new_run_with(r#"{"project":"p"}"#);
        let paths = [
            (format!("/runs/{run}/events/stream?types=B"), vec![4, 7]),
            (format!("/runs/{run}/events/stream?types=B,C"), vec![4, 5, 7]),
            (format!("/runs/{run}/events/stream?types=B%2CC"), vec![4, 5, 7]),
            (format!("/runs/{run}/events/stream?types=,B,,B"), vec![4, 7]),
            (format!("/runs/{run}/events/stream?types=RUN_CREATED"), vec![1, 7]),
            (format!("/runs/{run}/events/stream?types=none"), vec![7]),
            (format!("/runs/{run}/events/stream?types="), vec![1, 3, 4, 5, 7]),
            (format!("/runs/{run}/events/stream?types=b"), vec![7]),
            ("/projects/p/events/stream?types=B".to_owned(), vec![4, 6, 7]),
            ("/events/stream?types=C".to_owned(), vec![5, 7]),
            (format!("/events/stream?runs={run},{other}&types=B"), vec![4, 6, 7]),
        ];
        let mut live: Vec<Sse> = paths.iter().map(|(path, _)| server.stream(path)).collect();
        assert_eq!(server.append(run, "A", "1"), 3);
        assert_eq!(server.append(run, "B", "1"), 4);
        assert_eq!(server.append(run, "C", "1"), 5);
        assert_eq!(server.append(other, "B", "1"), 6);
        assert_eq!(server.end(run, "failed").expect(200).json()["last_event_id"], 7);
        for ((path, expected), stream) in paths.iter().zip(&mut live) {
            assert_eq!(stream.ids(expected.len()), *expected, "{path}, live");
            let mut replayed = server.stream(path);
            assert_eq!(replayed.ids(expected.len()), *expected, "{path}, replayed");
            if path.starts_with("/runs") {
                assert_eq!(stream.frame(), None);
                assert_eq!(replayed.frame(), None);
            }
        }
    }
}

#[test]
fn a_stream_may_name_several_runs() {
    let server = Server::start();
    let runs: Vec<u64> = (0..64).map(|_| server.new_run()).collect();
    let list = |runs: &[u64]| runs.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let mut all = server.stream(&format!("/events/stream?runs={}", list(&runs)));
    assert_eq!(all.ids(64), runs);
    let mut three = server.stream("/events/stream?runs=3,1,2,3");
    assert_eq!(three.ids(3), [1, 2, 3]);
    server.append(4, "A", "1");
    let id = server.append(2, "A", "1");
    assert_eq!(three.ids(1), [id]);
    server.end(1, "completed").expect(200);
    server.end(3, "completed").expect(200);
    assert_eq!(three.ids(2), [id + 1, id + 2]);
    server.end(2, "completed").expect(200);
    assert_eq!(three.ids_to_end(), [id + 3], "it ends with the last of its runs");
}

#[test]
fn a_run_without_events_of_these_types_ends_its_stream_all_the_same() {
    let server = Server::start();
    let run = server.new_run();
    let mut stream = server.stream(&format!("/runs/{run}/events/stream?types=NEVER"));
    server.append(run, "A", "1");
    let closing = server.end(run, "cancelled").expect(200).json()["last_event_id"].clone();
    let event = stream.event().unwrap();
    assert_eq!(event.event.as_deref(), Some("RUN_CANCELLED"));
    assert_eq!(event.json()["id"], closing);
    assert_eq!(stream.frame(), None);
}
