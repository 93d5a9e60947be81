//! Plots for a page: lines here, bars in [`bars`], and what is common to both.
//!
//! plotters draws them as SVG. Each is drawn twice, wide and narrow, and the stylesheet shows the
//! one that fits: a wide plot that is shrunk to a phone has letters that nobody can read. plotters
//! rounds to whole units, so it draws on a ground several times as large, and curves stay smooth.
//! It cannot measure text without a font, so the legend is HTML, where it wraps.

pub mod axis;
pub mod bars;
pub mod over_time;
pub mod palette;
pub mod percentiles;

use maud::{Markup, PreEscaped, html};
use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::prelude::{Cartesian2d, DashedLineSeries, LineSeries};
use plotters::style::{Color, IntoFont, ShapeStyle, TextStyle};

use axis::Axis;
use palette::{AXIS, Colour, GRID, SERIES, TEXT};

/// Units of the drawing for one unit of the plot.
const FINE: u32 = 4;
/// Height of letters, in units of the plot.
const LETTERS: f64 = 12.0;
/// Width of one, about: a wide one of common system fonts, so that no label is cut off.
const LETTER_WIDTH: f64 = 7.2;

/// Lines over a common pair of axes.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Stands above it.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// What is drawn, the first on top.
    pub lines: Vec<Line>,
}

/// One line of a plot.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name in the legend.
    pub label: String,
    /// Values, not places.
    pub points: Vec<(f64, f64)>,
}

impl Plot {
    /// The plot with its title and legend.
    pub fn figure(&self) -> Markup {
        let legend = self.lines.iter().enumerate().map(|(index, line)| Key {
            label: line.label.clone(),
            colour: palette::series(index),
            dashed: is_dashed(index),
        });
        let names: Vec<&str> = self.lines.iter().map(|line| line.label.as_str()).collect();
        let description = format!("{}: {}", self.title, names.join(", "));
        figure(&self.title, &legend.collect::<Vec<_>>(), &description, |format| {
            draw(format.size(300, 250), |area| self.draw(area, format))
        })
    }

    fn draw(&self, area: &Area, format: Format) -> Result<(), Failed> {
        let left = 10.0 + LETTER_WIDTH * longest(&self.y) as f64;
        let mut chart = chart(area, &self.x, &self.y, format, left, Mesh::Both)?;
        for (index, line) in self.lines.iter().enumerate().rev() {
            let places: Vec<(f64, f64)> =
                line.points.iter().map(|(x, y)| (self.x.place(*x), self.y.place(*y))).collect();
            let style = stroke(palette::series(index), 2.0);
            if is_dashed(index) {
                chart.draw_series(DashedLineSeries::new(places, 5 * FINE, 3 * FINE, style))?;
            } else {
                chart.draw_series(LineSeries::new(places, style))?;
            }
        }
        Ok(())
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;
type Failed = DrawingAreaErrorKind<std::io::Error>;

/// The two shapes that each plot is drawn in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Wide,
    Narrow,
}

impl Format {
    fn class(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Narrow => "narrow",
        }
    }

    fn width(self) -> u32 {
        match self {
            Self::Wide => 560,
            Self::Narrow => 360,
        }
    }

    fn size(self, wide_height: u32, narrow_height: u32) -> (u32, u32) {
        match self {
            Self::Wide => (self.width(), wide_height),
            Self::Narrow => (self.width(), narrow_height),
        }
    }
}

/// Which lines stand behind the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mesh {
    Both,
    VerticalOnly,
}

/// An entry of a legend.
struct Key {
    label: String,
    colour: Colour,
    dashed: bool,
}

/// A titled figure in both formats, with a legend where there is more than one thing to tell apart.
fn figure(
    title: &str,
    legend: &[Key],
    description: &str,
    drawn: impl Fn(Format) -> String,
) -> Markup {
    html! {
        figure.plot {
            figcaption { (title) }
            @if legend.len() > 1 {
                ul.legend {
                    @for key in legend {
                        li { i.key.dashed[key.dashed] style={ "color:var(" (key.colour.property) ")" } {} (key.label) }
                    }
                }
            }
            @for format in [Format::Wide, Format::Narrow] {
                (accessible(&drawn(format), format, description))
            }
        }
    }
}

/// The drawing with a name, and with a size that the page decides.
fn accessible(svg: &str, format: Format, description: &str) -> Markup {
    let view = svg.split_once("viewBox=\"").and_then(|(_, rest)| rest.split_once('"'));
    let content = svg.split_once('>').map_or(svg, |(_, content)| content);
    html! {
        svg class=(format.class()) viewBox=[view.map(|(view, _)| view)] role="img" aria-label=(description) {
            (PreEscaped(content.trim().trim_end_matches("</svg>")))
        }
    }
}

/// A drawing of that size, in units of the plot.
fn draw(size: (u32, u32), content: impl FnOnce(&Area) -> Result<(), Failed>) -> String {
    let mut svg = String::new();
    {
        let backend = SVGBackend::with_string(&mut svg, (size.0 * FINE, size.1 * FINE));
        let area = backend.into_drawing_area();
        content(&area).and_then(|()| area.present()).expect("drawing into a string does not fail");
    }
    svg
}

/// Axes with their labels and lines, ready for data.
fn chart<'a, 'b>(
    area: &'a Area<'b>,
    x: &Axis,
    y: &Axis,
    format: Format,
    left: f64,
    mesh: Mesh,
) -> Result<Chart<'a, 'b>, Failed> {
    const RIGHT: f64 = 30.0;
    let below = if x.label.is_empty() { 2.0 } else { 3.4 };
    let x = x.without_crowding(f64::from(format.width()) - left - RIGHT, LETTER_WIDTH);
    let x_label = x.label.clone();
    let mut chart = ChartBuilder::on(area)
        .margin_top(fine(8.0))
        .margin_right(fine(RIGHT))
        .set_left_and_bottom_label_area_size(fine(left))
        .x_label_area_size(fine(LETTERS * below))
        .build_cartesian_2d(x, y.clone())?;
    let mut axes = chart.configure_mesh();
    if mesh == Mesh::VerticalOnly {
        axes.disable_y_mesh();
    }
    axes.bold_line_style(stroke(GRID, 1.0))
        .axis_style(stroke(AXIS, 1.0))
        .label_style(text(TEXT))
        .axis_desc_style(text(TEXT))
        .x_desc(x_label)
        .set_all_tick_mark_size(fine(4.0))
        .draw()?;
    Ok(chart)
}

/// Units of the plot as units of the drawing.
fn fine(units: f64) -> u32 {
    #[allow(clippy::cast_sign_loss)] // lengths
    let fine = (units * f64::from(FINE)).round() as u32;
    fine
}

fn stroke(colour: Colour, width: f64) -> ShapeStyle {
    colour.light.stroke_width(fine(width))
}

fn text(colour: Colour) -> TextStyle<'static> {
    // plotters divides by this when it writes SVG.
    let size = LETTERS * f64::from(FINE) * 1.24;
    ("sans-serif", size).into_font().color(&colour.light)
}

/// Colours come round again after the last; the lines of the second round are dashed.
fn is_dashed(index: usize) -> bool {
    index / SERIES.len() % 2 == 1
}

fn longest(axis: &Axis) -> usize {
    axis.ticks.iter().map(|tick| tick.label.chars().count()).max().unwrap_or(0)
}
