//! The client's side of HTTP/1.1, bytes in and values out: answers' heads, and bodies' framing.

mod body;
mod head;

pub use self::{
    body::{Body, BodyError},
    head::{Head, HeadError},
};
