//! What comes before a measurement: a look at the server and at this machine's limits, and the
//! streams.

use std::{sync::Mutex, time::Duration};

use super::Error;
use crate::{
    client::Client,
    process,
    progress::Progress,
    target::{Target, Values},
};

/// Streams are made on so many connections at a time.
const MAKERS: usize = 32;
/// So much of an answer's body is shown.
const ANSWER_BYTES_MAX: usize = 300;

/// How many load processes there are to be.
pub(super) fn processes(subscribers: usize, wanted: Option<usize>) -> Result<usize, Error> {
    let limit = process::connections_max();
    let needed = subscribers.div_ceil(usize::try_from(limit).unwrap_or(usize::MAX)).max(1);
    match wanted {
        Some(0) => Err(Error::Senseless("--processes must be at least 1".into())),
        Some(processes) if processes < needed => {
            Err(Error::FileLimit { processes, limit, subscribers, needed })
        }
        Some(processes) => Ok(processes),
        None => Ok(needed),
    }
}

/// Makes the streams, and gives their names.
pub(super) fn make_streams(
    target: &Target,
    token: u32,
    count: usize,
    timeout: Duration,
    quiet: bool,
) -> Result<Vec<String>, Error> {
    let names: Vec<String> = (0..count).map(|number| format!("lt-{token:08x}-{number}")).collect();
    if target.create.is_none() {
        return Ok(names);
    }
    let progress = Mutex::new((Progress::begin("making streams", count as u64, quiet), 0));
    let share = count.div_ceil(MAKERS);
    let made: Vec<Result<Vec<String>, Error>> = std::thread::scope(|scope| {
        let make = |names: &[String]| {
            let mut client = None;
            let mut made = Vec::with_capacity(names.len());
            for name in names {
                made.push(make_stream(target, name, timeout, &mut client)?);
                let mut progress = progress.lock().expect("no thread panics while it holds it");
                progress.1 += 1;
                let done = progress.1;
                progress.0.set(done, count as u64, "");
            }
            Ok(made)
        };
        let threads: Vec<_> =
            names.chunks(share).map(|names| scope.spawn(move || make(names))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    let mut all = Vec::with_capacity(count);
    for names in made {
        all.extend(names?);
    }
    Ok(all)
}

fn make_stream(
    target: &Target,
    name: &str,
    timeout: Duration,
    client: &mut Option<Client>,
) -> Result<String, Error> {
    let create = target.create.as_ref().expect("it was looked at before");
    let request = &create.request;
    let url = || request.url.text().replace("{run}", name);
    let unreachable = |error| Error::Unreachable { url: url(), error };
    let connection = match client {
        Some(client) => client,
        None => client.insert(Client::connect(request.url.address, timeout).map_err(unreachable)?),
    };
    let body = request.body.replace("{run}", name);
    let head = request.head(Values { run: name, ..Values::default() }, body.len());
    let answer = connection.request(&head, &body).map_err(unreachable)?;
    let wrong =
        |answer: String| Error::WrongAnswer { method: request.method.clone(), url: url(), answer };
    if !answer.is_success() {
        return Err(wrong(describe(answer.status, &answer.body)));
    }
    let Some(field) = &create.name_field else { return Ok(name.to_owned()) };
    let object: serde_json::Value = serde_json::from_str(&answer.body)
        .map_err(|error| wrong(format!("no JSON ({error}): {}", shortened(&answer.body))))?;
    match &object[field] {
        serde_json::Value::String(name) => Ok(name.clone()),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        _ => Err(wrong(format!("no `{field}` in it: {}", shortened(&answer.body)))),
    }
}

/// Looks with one connection whether there is a stream at all.
pub(super) fn probe(target: &Target, run: &str, timeout: Duration) -> Result<(), Error> {
    let url = target.subscribe.url.text().replace("{run}", run).replace("{n}", "0");
    let unreachable = |error| Error::Unreachable { url: url.clone(), error };
    let client = Client::connect(target.subscribe.url.address, timeout).map_err(unreachable)?;
    let head = client.request_head(&target.subscription(run, 0, None)).map_err(unreachable)?;
    let answer = match (head.status, head.media_type.as_str()) {
        (200, "text/event-stream") => return Ok(()),
        (200, media_type) => format!("`{media_type}` and not text/event-stream"),
        (status, _) => format!("status {status}"),
    };
    Err(Error::WrongAnswer { method: target.subscribe.method.clone(), url, answer })
}

fn describe(status: u16, body: &str) -> String {
    let separator = if body.is_empty() { "" } else { ": " };
    format!("status {status}{separator}{}", shortened(body))
}

fn shortened(body: &str) -> &str {
    let end = (0..=ANSWER_BYTES_MAX.min(body.len()))
        .rev()
        .find(|end| body.is_char_boundary(*end))
        .unwrap_or(0);
    &body[..end]
}
