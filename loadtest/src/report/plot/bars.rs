//! A bar for each of several servers, with its spread over the rounds.

use maud::Markup;
use plotters::element::{PathElement, Rectangle, Text};
use plotters::style::Color;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;
use super::palette::{self, STRONG, TEXT};
use super::{
    Area, Chart, Failed, Format, Key, LETTER_WIDTH, Mesh, chart, draw, figure, longest, stroke,
    text,
};
use crate::report::Unit;
use crate::report::format::format;
use crate::report::spread::Spread;

/// The most letters of a name or of a reason that are drawn.
const LETTERS_MAX: usize = 26;
/// Share of the width that is kept free for the values behind the bars.
const FREE_SHARE: f64 = 0.2;

/// Bars over a common axis.
#[derive(Clone, Debug)]
pub struct Bars {
    /// Stands above them.
    pub title: String,
    /// What the values count.
    pub unit: Unit,
    /// From the top.
    pub bars: Vec<Bar>,
    /// What each colour stands for.
    pub legend: Vec<String>,
}

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Stands before it.
    pub name: String,
    /// Its length, or why there is none.
    pub value: Result<Spread, String>,
    /// Its colour: a position in the legend.
    pub colour: usize,
}

impl Bars {
    /// The bars with their title and legend.
    pub fn figure(&self) -> Markup {
        let legend: Vec<Key> = self
            .legend
            .iter()
            .enumerate()
            .map(|(index, label)| Key {
                label: label.clone(),
                colour: palette::series(index),
                dashed: false,
            })
            .collect();
        let values: Vec<String> = self.bars.iter().map(|bar| self.described(bar)).collect();
        let description = format!("{}: {}", self.title, values.join(", "));
        let x = self.axis();
        let title = if x.is_logarithmic() {
            format!("{} (logarithmic)", self.title)
        } else {
            self.title.clone()
        };
        figure(&title, &legend, &description, |shape| {
            let height = 40 + 22 * self.bars.len() as u32;
            draw(shape.size(height, height), |area| self.draw(area, &x, shape))
        })
    }

    fn described(&self, bar: &Bar) -> String {
        match &bar.value {
            Ok(spread) => format!("{} {}", bar.name, format(spread.median, self.unit)),
            Err(reason) => format!("{} {reason}", bar.name),
        }
    }

    /// With room for the values behind the longest bar.
    fn axis(&self) -> Axis {
        let spreads = self.bars.iter().filter_map(|bar| bar.value.as_ref().ok());
        let mut axis =
            Axis::by_range(spreads.flat_map(|spread| [spread.min, spread.max]), self.unit);
        let length = axis.range.end - axis.range.start;
        axis.range.end += length * FREE_SHARE / (1.0 - FREE_SHARE);
        axis
    }

    fn draw(&self, area: &Area, x: &Axis, shape: Format) -> Result<(), Failed> {
        let names: Vec<String> = self.bars.iter().map(|bar| shortened(&bar.name)).collect();
        let y = Axis::names(names.iter().map(String::as_str));
        let left = 12.0 + LETTER_WIDTH * longest(&y) as f64;
        let mut chart = chart(area, x, &y, shape, left, Mesh::VerticalOnly)?;
        for (index, bar) in self.bars.iter().rev().enumerate() {
            let row = index as f64;
            match &bar.value {
                Ok(spread) => self.draw_bar(&mut chart, x, row, bar.colour, *spread)?,
                Err(reason) => draw_reason(&mut chart, x, row, reason)?,
            }
        }
        Ok(())
    }

    fn draw_bar(
        &self,
        chart: &mut Chart,
        x: &Axis,
        row: f64,
        colour: usize,
        spread: Spread,
    ) -> Result<(), Failed> {
        let end = x.place(spread.median);
        let corners = [(x.range.start, row - 0.34), (end, row + 0.34)];
        let fill = palette::series(colour).light.filled();
        chart.draw_series([Rectangle::new(corners, fill)])?;
        let ends = vec![(x.place(spread.min), row), (x.place(spread.max), row)];
        chart.draw_series([PathElement::new(ends, stroke(STRONG, 1.5))])?;
        let after = x.place(spread.max).max(end);
        let value = format(spread.median, self.unit);
        draw_text(chart, x, (after, row), value, palette::STRONG)
    }
}

fn draw_reason(chart: &mut Chart, x: &Axis, row: f64, reason: &str) -> Result<(), Failed> {
    draw_text(chart, x, (x.range.start, row), shortened(reason), TEXT)
}

/// Begins a little behind the place, in the middle of the row.
fn draw_text(
    chart: &mut Chart,
    x: &Axis,
    (place, row): (f64, f64),
    words: String,
    colour: palette::Colour,
) -> Result<(), Failed> {
    let gap = 0.012 * (x.range.end - x.range.start);
    let style = text(colour).pos(Pos::new(HPos::Left, VPos::Center));
    chart.draw_series([Text::new(words, (place + gap, row), style)])?;
    Ok(())
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= LETTERS_MAX {
        return text.to_owned();
    }
    text.chars().take(LETTERS_MAX - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars(values: &[f64]) -> Bars {
        let bar = |value: &f64| Bar {
            name: "a server with a name that goes on".into(),
            value: Spread::of(&[*value]).ok_or_else(|| "no resume".into()),
            colour: 0,
        };
        Bars {
            title: "memory".into(),
            unit: Unit::Bytes,
            bars: values.iter().map(bar).collect(),
            legend: vec!["durable".into(), "memory only".into()],
        }
    }

    #[test]
    fn bars_have_their_values_and_why_there_is_none() {
        let figure = bars(&[412.0, f64::NAN]).figure().into_string();
        assert!(figure.contains("\n412 B\n") || figure.contains(">\n412 B"), "{figure}");
        assert!(figure.contains("no resume"), "{figure}");
        assert!(figure.contains("a server with a name that…"), "{figure}");
        assert!(!figure.contains("(logarithmic)"), "{figure}");
    }

    #[test]
    fn bars_that_are_far_apart_say_that_they_are_logarithmic() {
        let figure = bars(&[412.0, 83_000.0]).figure().into_string();
        assert!(figure.contains("memory (logarithmic)"), "{figure}");
    }
}
