//! What every page has in common: it is one file, loads nothing, and follows the reader's scheme.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::format::format;
use super::plot::palette;
use super::{Machine, Unit};

const STYLESHEET: &str = include_str!("page.css");

/// A whole page around its content.
pub fn document(title: &str, content: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(palette::stylesheet())) (PreEscaped(STYLESHEET)) }
            }
            body { main { (content) } }
        }
    };
    page.into_string()
}

/// When and where something was measured, in a line.
pub fn facts(began_at: &str, machine: &Machine, more: &[String]) -> Markup {
    html! {
        p.facts {
            span { time datetime=(began_at) { (began_at) } }
            @for fact in more.iter().cloned().chain(described(machine)) { " " span { (fact) } }
        }
    }
}

fn described(machine: &Machine) -> Vec<String> {
    vec![
        machine.kernel.clone(),
        machine.cpu.clone(),
        format!("{} cores", machine.cores),
        format!("{} memory", format(machine.memory_bytes as f64, Unit::Bytes)),
        match machine.open_files_max {
            u64::MAX => "any number of open files".into(),
            files => format!("{} open files", format(files as f64, Unit::Count)),
        },
    ]
}

/// A command line to be typed again.
pub fn command(line: &str) -> Markup {
    html! { pre { code { (line) } } }
}

/// What a reader should know before believing a figure.
pub fn remarks(remarks: &[String]) -> Markup {
    html! {
        @for remark in remarks { p.say.note { (remark) } }
    }
}

/// A table that scrolls by itself where it is wider than the page; also by keyboard.
pub fn scrolling(label: &str, class: &str, table: &Markup) -> Markup {
    html! {
        div.scroll.(class) tabindex="0" role="region" aria-label=(label) { (table) }
    }
}

/// Fails the test if a browser would load anything for this page.
#[cfg(test)]
#[track_caller]
pub fn assert_self_contained(page: &str) {
    for reference in ["src=", "href=", "url(", "@import", "<script", "xmlns", "srcset"] {
        assert!(!page.contains(reference), "the page has {reference}");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(page.starts_with("<!DOCTYPE html>"));
    assert!(page.contains("prefers-color-scheme"));
}
