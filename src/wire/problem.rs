//! Errors as the client sees them: `application/problem+json` (RFC 9457).

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use super::refusal::Refusal;
use super::status::reason_phrase;

/// What was wrong, for programs (`type`, `status`, extensions) and for people (`title`, `detail`).
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: u16,
    slug: Option<&'static str>,
    title: Option<&'static str>,
    detail: Option<String>,
    errors: Vec<FieldError>,
    extensions: Vec<(&'static str, Value)>,
}

/// One thing that is wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FieldError {
    /// Where: a path such as `events[3].type`.
    pub field: String,
    /// Why: "must be …".
    pub reason: String,
}

/// Members that a problem has anyway, so that no extension may have their names.
const MEMBERS: [&str; 5] = ["type", "title", "status", "detail", "errors"];

impl Problem {
    /// A problem that says no more than its status: `about:blank` (RFC 9457 §4.2.1).
    pub fn new(status: u16) -> Problem {
        Problem {
            status,
            slug: None,
            title: None,
            detail: None,
            errors: Vec::new(),
            extensions: Vec::new(),
        }
    }

    /// Gives it a type of its own, `urn:tidewheel:problem:<slug>`, and that type's title.
    #[must_use]
    pub fn of_type(mut self, slug: &'static str, title: &'static str) -> Problem {
        self.slug = Some(slug);
        self.title = Some(title);
        self
    }

    /// Explains this occurrence.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Problem {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a field that is wrong, and why.
    #[must_use]
    pub fn error(mut self, field: impl Into<String>, reason: impl Into<String>) -> Problem {
        self.errors.push(FieldError { field: field.into(), reason: reason.into() });
        self
    }

    /// Adds an extension member (RFC 9457 §3.2), such as `"expected": 7`.
    #[must_use]
    pub fn with(mut self, member: &'static str, value: impl Into<Value>) -> Problem {
        debug_assert!(!MEMBERS.contains(&member), "{member} is no extension");
        self.extensions.push((member, value.into()));
        self
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What is wrong with the body.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// The problem as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("its keys are strings, and a Vec takes every byte")
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Problem {
        Problem::new(refusal.status).detail(refusal.detail.clone())
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self.slug {
            Some(slug) => map.serialize_entry("type", &format!("urn:tidewheel:problem:{slug}"))?,
            None => map.serialize_entry("type", "about:blank")?,
        }
        map.serialize_entry("title", self.title.unwrap_or_else(|| reason_phrase(self.status)))?;
        map.serialize_entry("status", &self.status)?;
        if let Some(detail) = &self.detail {
            map.serialize_entry("detail", detail)?;
        }
        if !self.errors.is_empty() {
            map.serialize_entry("errors", &self.errors)?;
        }
        for (member, value) in &self.extensions {
            map.serialize_entry(member, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(problem: &Problem) -> String {
        String::from_utf8(problem.to_json()).unwrap()
    }

    #[test]
    fn a_plain_problem_is_about_blank() {
        assert_eq!(
            json(&Problem::new(404)),
            r#"{"type":"about:blank","title":"Not Found","status":404}"#
        );
    }

    #[test]
    fn a_full_problem_has_its_members_in_order() {
        let problem = Problem::new(409)
            .of_type("producer-gap", "A sequence number is missing")
            .detail("expected \"7\"")
            .error("type", "must be 1 to 64 characters")
            .with("expected", 7)
            .with("lines", 3_u64);
        assert_eq!(
            json(&problem),
            concat!(
                r#"{"type":"urn:tidewheel:problem:producer-gap","#,
                r#""title":"A sequence number is missing","status":409,"#,
                r#""detail":"expected \"7\"","#,
                r#""errors":[{"field":"type","reason":"must be 1 to 64 characters"}],"#,
                r#""expected":7,"lines":3}"#
            )
        );
        assert_eq!(problem.status(), 409);
    }

    #[test]
    fn a_refusal_is_a_problem() {
        let problem = Problem::from(&Refusal::new(414, "too long"));
        assert_eq!(problem, Problem::new(414).detail("too long"));
    }
}
