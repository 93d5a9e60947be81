//! The header fields of one request.
//!
//! All names (in lower case) and values lie in one text, with a table of offsets beside it: two
//! allocations a request, however many fields it has.
//!
//! A value need not be text: RFC 9110 §5.5 still allows any byte from 0x80 as "obs-text". Such a
//! value cannot be read here, only its presence is known ([`Headers::is_text`]).

use std::fmt;

use crate::limits::HEADER_BYTES_MAX;

/// Header fields in the order in which they came (RFC 9110 §5).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    text: String,
    fields: Vec<Field>,
}

/// `text[name..value]` is the name, `text[value..end]` the value.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Field {
    name: u16,
    value: u16,
    end: u16,
    is_text: bool,
}

impl Field {
    fn name_len(self) -> usize {
        usize::from(self.value - self.name)
    }
}

const _: () = assert!(HEADER_BYTES_MAX <= u16::MAX as usize, "offsets are 16 bits wide");

impl Headers {
    /// Room for this many fields, and this many bytes of names and values.
    pub(super) fn with_capacity(fields: usize, bytes: usize) -> Headers {
        Headers { text: String::with_capacity(bytes), fields: Vec::with_capacity(fields) }
    }

    /// Appends a field of a head that is no longer than `HEADER_BYTES_MAX`.
    pub(super) fn push(&mut self, name: &str, value: &[u8]) {
        let text = std::str::from_utf8(value);
        let start = self.text.len();
        self.text.push_str(name);
        self.text[start..].make_ascii_lowercase();
        let middle = self.text.len();
        self.text.push_str(text.unwrap_or_default());
        self.fields.push(Field {
            name: start as u16,
            value: middle as u16,
            end: self.text.len() as u16,
            is_text: text.is_ok(),
        });
        debug_assert!(self.text.len() <= HEADER_BYTES_MAX);
    }

    /// The first value of a field, by its name in lower case, without white space at its ends.
    /// `None` also when that value is not text.
    pub fn get(&self, name: &str) -> Option<&str> {
        let field = self.named(name).next()?;
        field.is_text.then(|| self.value(field))
    }

    /// Every value of a field that is text, by its name in lower case, in order.
    pub fn get_all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.named(name).filter(|field| field.is_text).map(|field| self.value(field))
    }

    /// The members of a field that is a comma-separated list, over all its lines, without the
    /// empty ones (RFC 9110 §5.6.1). Not for lists whose members may be quoted strings.
    pub fn list<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.get_all(name)
            .flat_map(|value| value.split(','))
            .map(|member| member.trim_matches([' ', '\t']))
            .filter(|member| !member.is_empty())
    }

    /// Whether there is such a field, text or not.
    pub fn contains(&self, name: &str) -> bool {
        self.named(name).next().is_some()
    }

    /// Whether every value of this field is valid UTF-8; true also when there is none.
    pub fn is_text(&self, name: &str) -> bool {
        self.named(name).all(|field| field.is_text)
    }

    /// Names in lower case, and values; the value of a field that is not text is empty.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|field| (self.name(*field), self.value(*field)))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    fn named(&self, name: &str) -> impl Iterator<Item = Field> {
        debug_assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()), "{name}");
        // The length alone tells most names apart, and costs no look at the text.
        let fields = self.fields.iter().copied();
        fields.filter(move |field| field.name_len() == name.len() && self.name(*field) == name)
    }

    fn name(&self, field: Field) -> &str {
        &self.text[field.name as usize..field.value as usize]
    }

    fn value(&self, field: Field) -> &str {
        &self.text[field.value as usize..field.end as usize]
    }
}

impl fmt::Debug for Headers {
    /// Names only: values may be credentials, and this may end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &[u8])]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in fields {
            headers.push(name, value);
        }
        headers
    }

    #[test]
    fn fields_are_found_by_lower_case_name_in_order() {
        let headers = headers(&[("X-A", b"1"), ("Host", b"h"), ("x-a", b"2")]);
        assert_eq!(headers.get("x-a"), Some("1"));
        assert_eq!(headers.get_all("x-a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(headers.get("x"), None);
        assert!(headers.contains("host") && !headers.contains("x"));
        assert_eq!(headers.iter().last(), Some(("x-a", "2")));
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn a_value_that_is_no_text_is_known_but_not_read() {
        let headers = headers(&[("a", b"\xff"), ("a", "ü".as_bytes())]);
        assert!(headers.contains("a"));
        assert!(!headers.is_text("a"));
        assert!(headers.is_text("b"));
        assert_eq!(headers.get("a"), None);
        assert_eq!(headers.get_all("a").collect::<Vec<_>>(), ["ü"]);
    }

    #[test]
    fn lists_run_over_all_lines_of_a_field() {
        let headers = headers(&[("a", b"x, y,,"), ("b", b"-"), ("a", b"\t z ")]);
        assert_eq!(headers.list("a").collect::<Vec<_>>(), ["x", "y", "z"]);
    }

    #[test]
    fn debugging_shows_no_values() {
        let headers = headers(&[("Authorization", b"Bearer secret")]);
        assert_eq!(format!("{headers:?}"), r#"["authorization"]"#);
    }
}
