//! Many subscribers, and slow ones.

use std::{net::TcpStream, time::Instant};

use crate::support::{Server, Sse, allow_open_files, eventually};

fn all_get_every_event(server: &Server, subscribers: usize) {
    let run = server.new_run();
    let target = format!("/runs/{run}/events/stream");
    let mut streams: Vec<Sse> = (0..subscribers).map(|_| server.stream(&target)).collect();
    eventually("all are counted", || (server.open_streams() == subscribers as u64).then_some(()));
    let started = Instant::now();
    let mut expected = vec![1];
    for number in 0..10 {
        expected.push(server.append(run, "A", &number.to_string()));
    }
    let several = format!("[{}]", vec![r#"{"type":"B","payload":"x"}"#; 20].join(","));
    let several = server.post(&format!("/runs/{run}/events"), &several).expect(201).json();
    expected.extend(several.as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap()));
    expected.push(server.end(run, "completed").json()["last_event_id"].as_u64().unwrap());
    for (index, stream) in streams.iter_mut().enumerate() {
        let ids = stream.ids_to_end();
        assert!(ids == expected, "subscriber {index}: {ids:?}");
    }
    eprintln!("{subscribers} subscribers, {}: {:?}", server.arguments(), started.elapsed());
    eventually("nobody is left", || (server.open_streams() == 0).then_some(()));
}

#[test]
fn two_thousand_subscribers_of_one_run_all_get_every_event() {
    // One descriptor each here, and one each in the server.
    let allowed = allow_open_files(4_096);
    let subscribers = 2_000.min(allowed.saturating_sub(512));
    for server in Server::with_each_driver(&[]) {
        all_get_every_event(&server, subscribers);
    }
}

/// Who waits for its turn to be read is not ended, however busy the machine.
const PATIENT: [&str; 2] = ["--client-timeout", "1h"];

/// Makes the kernel keep little for a socket, so that its peer is blocked soon.
fn keep_little(socket: &TcpStream) {
    rustix::net::sockopt::set_socket_recv_buffer_size(socket, 16 * 1024).unwrap();
}

#[test]
fn a_subscriber_that_does_not_read_gets_everything_once_when_it_does() {
    for server in Server::with_each_driver(&PATIENT) {
        let run = server.new_run();
        let target = format!("/runs/{run}/events/stream");
        let mut slow = [
            server.stream(&target),
            server.stream("/events/stream"),
            server.stream(&format!("{target}?types=A,B&format=payload")),
        ];
        for stream in &slow {
            keep_little(stream.socket());
        }
        let mut quick = server.stream(&format!("{target}?types=B"));
        // Odd lengths, so that sends end inside of events.
        let mut expected = vec![1];
        for number in 0..16_usize {
            let payload = format!("\"{}\"", "x".repeat(50_001 + number * 437));
            let events: Vec<String> =
                (0..8).map(|_| format!("{{\"type\":\"A\",\"payload\":{payload}}}")).collect();
            let body = format!("[{}]", events.join(","));
            let appended = server.post(&format!("/runs/{run}/events"), &body).expect(201).json();
            let ids =
                appended.as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap());
            expected.extend(ids);
            if number % 5 == 0 {
                // Nobody waits for the slow ones: they take nothing before all is there.
                let id = server.append(run, "B", "1");
                expected.push(id);
                assert_eq!(quick.ids(1), [id]);
            }
        }
        let last = server.end(run, "completed").expect(200).json()["last_event_id"].clone();
        expected.push(last.as_u64().unwrap());
        for (index, stream) in slow.iter_mut().enumerate() {
            let expected = if index == 2 { &expected[1..] } else { &expected[..] };
            let ids = stream.ids(expected.len());
            assert!(ids == expected, "{index}: {} and {}", ids.len(), expected.len());
        }
        let bytes = server.json("/worker")["workers"][0]["tails_bytes"].as_u64().unwrap();
        assert!(bytes <= 64 * 1024 * 1024, "{bytes}");
    }
}

#[test]
fn history_of_many_megabytes_is_replayed_to_many_at_once() {
    for server in Server::with_each_driver(&PATIENT) {
        let run = server.new_run();
        let payload = format!("\"{}\"", "x".repeat(10_000));
        let events = vec![format!("{{\"type\":\"A\",\"payload\":{payload}}}"); 100].join(",");
        for _ in 0..6 {
            server.post(&format!("/runs/{run}/events"), &format!("[{events}]")).expect(201);
        }
        server.end(run, "completed").expect(200);
        let expected: Vec<u64> = (1..=602).collect();
        let target = format!("/runs/{run}/events/stream");
        let mut streams: Vec<Sse> = (0..10).map(|_| server.stream(&target)).collect();
        for stream in &mut streams {
            assert!(stream.ids_to_end() == expected);
        }
    }
}
