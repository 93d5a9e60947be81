//! The colours of the plots, in light and in dark.
//!
//! plotters writes colours into the drawing. Each is the light variant of one entry here, and the
//! stylesheet finds it by that attribute and puts the scheme's colour in its place. So a plot
//! follows the reader's scheme, and still has its colours when it is copied out of the page.

use std::fmt::Write as _;

use plotters::style::RGBColor;

/// A colour by its name in the stylesheet and by its two variants.
#[derive(Clone, Copy, Debug)]
pub struct Colour {
    /// The custom property that holds it.
    pub property: &'static str,
    /// On a light ground.
    pub light: RGBColor,
    /// On a dark ground.
    pub dark: RGBColor,
}

/// Lines behind the data.
pub const GRID: Colour = colour("--plot-grid", 0xE4_E4_E7, 0x2E_30_36);
/// The two axes.
pub const AXIS: Colour = colour("--plot-axis", 0xA1_A1_AA, 0x62_65_6E);
/// Labels.
pub const TEXT: Colour = colour("--plot-text", 0x52_52_5C, 0xB4_B6_BF);
/// What matters most: values beside bars, and their spread.
pub const STRONG: Colour = colour("--plot-strong", 0x18_18_1B, 0xF1_F1_F4);

/// Lines and bars, in this order; neighbours are told apart by those who see fewer colours too.
pub const SERIES: [Colour; 8] = [
    colour("--series-1", 0x2A_78_D6, 0x5B_9D_F0),
    colour("--series-2", 0xD9_5F_02, 0xF0_8A_3C),
    colour("--series-3", 0x1B_8F_6A, 0x35_B8_8D),
    colour("--series-4", 0x8A_4F_BF, 0xB4_8A_E8),
    colour("--series-5", 0xC2_3B_72, 0xEB_74_A3),
    colour("--series-6", 0x8F_73_00, 0xD4_B0_30),
    colour("--series-7", 0x0E_86_A3, 0x3F_BE_DC),
    colour("--series-8", 0x6B_6B_76, 0xA3_A5_B0),
];

/// The colour of a line by its position; comes round again after the last.
pub fn series(index: usize) -> Colour {
    SERIES[index % SERIES.len()]
}

/// The rules that put the scheme's colours into the plots.
pub fn stylesheet() -> String {
    let mut light = String::new();
    let mut dark = String::new();
    let mut uses = String::new();
    for Colour { property, light: day, dark: night } in all() {
        let day = hex(day);
        let _ = write!(light, "{property}:{day};");
        let _ = write!(dark, "{property}:{};", hex(night));
        let _ = writeln!(uses, "svg [fill=\"{day}\"]{{fill:var({property})}}");
        let _ = writeln!(uses, "svg [stroke=\"{day}\"]{{stroke:var({property})}}");
    }
    let scheme = "@media screen and (prefers-color-scheme:dark)";
    format!(":root{{{light}}}\n{scheme}{{:root{{{dark}}}}}\n{uses}")
}

fn all() -> impl Iterator<Item = Colour> {
    [GRID, AXIS, TEXT, STRONG].into_iter().chain(SERIES)
}

/// As plotters writes it.
fn hex(colour: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2)
}

const fn colour(property: &'static str, light: u32, dark: u32) -> Colour {
    Colour { property, light: rgb(light), dark: rgb(dark) }
}

const fn rgb(colour: u32) -> RGBColor {
    let [_, red, green, blue] = colour.to_be_bytes();
    RGBColor(red, green, blue)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance as WCAG 2.2 defines it.
    fn luminance(colour: RGBColor) -> f64 {
        let linear = |part: u8| {
            let part = f64::from(part) / 255.0;
            if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(colour.0) + 0.7152 * linear(colour.1) + 0.0722 * linear(colour.2)
    }

    fn contrast(one: RGBColor, other: RGBColor) -> f64 {
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn every_line_stands_out_from_its_ground() {
        for colour in SERIES {
            assert!(contrast(colour.light, rgb(0xFF_FF_FF)) >= 3.0, "{colour:?}");
            assert!(contrast(colour.dark, rgb(0x1A_1B_1F)) >= 3.0, "{colour:?}");
        }
        for colour in [TEXT, STRONG] {
            assert!(contrast(colour.light, rgb(0xFF_FF_FF)) >= 4.5, "{colour:?}");
            assert!(contrast(colour.dark, rgb(0x1A_1B_1F)) >= 4.5, "{colour:?}");
        }
    }

    #[test]
    fn each_colour_has_its_own_light_variant_to_be_found_by() {
        let mut found: Vec<String> = all().map(|colour| hex(colour.light)).collect();
        found.sort();
        found.dedup();
        assert_eq!(found.len(), all().count());
    }
}
