//! One line of the log, as logfmt or as JSON.
//!
//! What comes from outside is in values only, and no value can end its line or begin another key:
//! control characters, and those that reorder or break lines where they are shown, are escaped.

use std::fmt::Write as _;

use log::{
    Record,
    kv::{self, Key, Value, VisitSource, VisitValue},
};

use crate::{config::LogFormat, event::Timestamp};

/// The line of a record, with its line feed.
pub(super) fn line(record: &Record, now: Timestamp, format: LogFormat) -> Vec<u8> {
    let mut line = Line { out: String::with_capacity(160), format };
    if format == LogFormat::Json {
        line.out.push('{');
    }
    let level = record.level().as_str().to_ascii_lowercase();
    line.text("ts", &now.to_string());
    line.text("level", &level);
    line.text("module", module(record.target()));
    match record.args().as_str() {
        Some(text) => line.text("msg", text),
        None => line.text("msg", &record.args().to_string()),
    }
    // Nothing here fails.
    let _ = record.key_values().visit(&mut line);
    line.out.push_str(if format == LogFormat::Json { "}\n" } else { "\n" });
    line.out.into_bytes()
}

/// Where it was logged, without what is the same for all.
fn module(target: &str) -> &str {
    target.strip_prefix("tidewheel::").unwrap_or(target)
}

struct Line {
    out: String,
    format: LogFormat,
}

impl Line {
    fn key(&mut self, key: &str) {
        let is_first = matches!(self.out.as_str(), "" | "{");
        match self.format {
            LogFormat::Logfmt => {
                self.out.push_str(if is_first { "" } else { " " });
                self.out.push_str(key);
                self.out.push('=');
            }
            LogFormat::Json => {
                self.out.push_str(if is_first { "" } else { "," });
                quote(&mut self.out, key);
                self.out.push(':');
            }
        }
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        let is_bare = |character: char| {
            character.is_ascii_graphic() && !matches!(character, '"' | '\\' | '=')
        };
        if self.format == LogFormat::Logfmt && !text.is_empty() && text.chars().all(is_bare) {
            self.out.push_str(text);
        } else {
            quote(&mut self.out, text);
        }
    }

    /// What needs no quotes in either format.
    fn plain(&mut self, key: &str, value: impl std::fmt::Display) {
        self.key(key);
        write!(self.out, "{value}").expect("a String takes all that is written to it");
    }
}

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        value.visit(Pair { line: self, key: key.as_str() })
    }
}

struct Pair<'a> {
    line: &'a mut Line,
    key: &'a str,
}

impl VisitValue<'_> for Pair<'_> {
    fn visit_any(&mut self, value: Value) -> Result<(), kv::Error> {
        self.line.text(self.key, &value.to_string());
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        self.line.text(self.key, value);
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.line.plain(self.key, value);
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.line.plain(self.key, value);
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.line.plain(self.key, value);
        Ok(())
    }
}

/// Writes a text as JSON has it (RFC 8259 §7), which logfmt takes too.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Line and paragraph separators, and what turns the direction of writing.
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escape(out, character),
            _ if character.is_control() => escape(out, character),
            _ => out.push(character),
        }
    }
    out.push('"');
}

fn escape(out: &mut String, character: char) {
    write!(out, "\\u{:04x}", character as u32).expect("a String takes all that is written to it");
}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;

    const HOSTILE: &str = "a\" level=error msg=\"no\n{\"ts\":1}\u{2028}\u{85}\u{202e}\\";

    fn check(format: LogFormat, message: &str, value: &str) -> String {
        let pairs: &[(&str, Value)] = &[
            ("client", Value::from(value)),
            ("events", Value::from(u64::MAX)),
            ("delta", Value::from(-1_i64)),
            ("is_new", Value::from(true)),
            ("conn", Value::from_display(&"0-7")),
        ];
        let line = line(
            &Record::builder()
                .level(Level::Info)
                .target("tidewheel::worker")
                .args(format_args!("{message}"))
                .key_values(&pairs)
                .build(),
            Timestamp(1_767_225_600_007),
            format,
        );
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn logfmt_quotes_what_it_has_to() {
        assert_eq!(
            check(LogFormat::Logfmt, "stream ended", "10.0.0.1"),
            "ts=2026-01-01T00:00:00.007Z level=info module=worker msg=\"stream ended\" \
             client=10.0.0.1 events=18446744073709551615 delta=-1 is_new=true conn=0-7\n"
        );
        for value in ["", "a b", "a=b", "é"] {
            let line = check(LogFormat::Logfmt, "request", value);
            assert!(line.contains(&format!(" msg=request client=\"{value}\" events=")), "{line}");
        }
    }

    #[test]
    fn json_is_json_with_numbers() {
        let line = check(LogFormat::Json, HOSTILE, HOSTILE);
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "ts": "2026-01-01T00:00:00.007Z", "level": "info", "module": "worker", "msg": HOSTILE,
            "client": HOSTILE, "events": u64::MAX, "delta": -1, "is_new": true, "conn": "0-7",
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn no_value_makes_a_line_or_a_key() {
        for format in [LogFormat::Logfmt, LogFormat::Json] {
            let line = check(format, HOSTILE, HOSTILE);
            let ends = |character: char| {
                character.is_control() || matches!(character, '\u{2028}' | '\u{202e}')
            };
            assert_eq!(line.find(ends), Some(line.len() - 1), "{line:?}");
            // Outside of quotes there are our own keys only.
            let unescaped = line.replace("\\\\", "").replace("\\\"", "");
            let outside: String = unescaped.split('"').step_by(2).collect();
            assert_eq!(outside.matches("level").count(), usize::from(format == LogFormat::Logfmt));
        }
    }
}
