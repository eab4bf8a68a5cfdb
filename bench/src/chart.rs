//! The comparison as a picture: for each measurement a bar of CPU per answer and one of answers a second for every contender.
//!
//! Each measurement has scales of its own, since a forwarded answer costs many times a cached one. White behind all, so that it can
//! be read on a dark page as well.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::comparison::{COREWALL, Comparison, FLOOR, Measurement, Summary, is_corewall};
use crate::figures::Spread;

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: i32 = 1_120;
const HEADER_HEIGHT: i32 = 92;
const PANEL_TITLE_HEIGHT: i32 = 34;
const ROW_HEIGHT: i32 = 23;
const BAR_HEIGHT: i32 = 15;
const PANEL_GAP: i32 = 20;
const FOOTER_HEIGHT: i32 = 34;
const MARGIN: i32 = 24;
/// Where the names of the contenders end.
const NAMES_RIGHT: i32 = 150;
/// Where bars begin, and how long the longest is: behind it stands its figure.
const CPU_BARS: (i32, i32) = (160, 330);
const QPS_BARS: (i32, i32) = (690, 300);

/// The size of a figure's letters, and the width of one about.
const FIGURE_SIZE: i32 = 13;
const FIGURE_CHARACTER_WIDTH: i32 = 7;
/// Pixels of a dash, and between two.
const DASH: i32 = 4;

const INK: RGBColor = RGBColor(31, 35, 40);
const FAINT_INK: RGBColor = RGBColor(99, 108, 118);
const GRID: RGBColor = RGBColor(208, 215, 222);
const COREWALL_COLOR: RGBColor = RGBColor(9, 105, 218);
const COREWALL_OTHER_COLOR: RGBColor = RGBColor(128, 190, 245);
const FLOOR_COLOR: RGBColor = RGBColor(140, 149, 159);
const PEER_COLOR: RGBColor = RGBColor(214, 178, 128);

/// Writes the picture as SVG.
pub fn draw(comparison: &Comparison, path: &Path) -> Result<(), Box<dyn Error>> {
    let panels = panels(comparison);
    let panel_height = |rows: usize| PANEL_TITLE_HEIGHT + ROW_HEIGHT * rows as i32 + PANEL_GAP;
    let height = HEADER_HEIGHT + panels.iter().map(|(_, rows)| panel_height(rows.len())).sum::<i32>() + FOOTER_HEIGHT;
    let canvas = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    canvas.fill(&WHITE)?;
    draw_header(&canvas, comparison)?;
    let mut top = HEADER_HEIGHT;
    for (measurement, rows) in &panels {
        draw_panel(&canvas, top, measurement, rows)?;
        top += panel_height(rows.len());
    }
    let told = format!(
        "Bars: median of {} rounds; whiskers: least and most; dashed: the floor, a reflector of datagrams. One core; latency and losses are in the figures.",
        comparison.rounds
    );
    write(&canvas, &told, (MARGIN, height - FOOTER_HEIGHT / 2), 13, FAINT_INK, HPos::Left)?;
    canvas.present()?;
    Ok(())
}

/// The measurements in their order, each with the contenders in theirs.
fn panels(comparison: &Comparison) -> Vec<(&Measurement, Vec<&Summary>)> {
    let mut panels: Vec<(&Measurement, Vec<&Summary>)> = Vec::new();
    for summary in &comparison.summaries {
        match panels.last_mut() {
            Some((measurement, rows)) if *measurement == &summary.measurement => rows.push(summary),
            _ => panels.push((&summary.measurement, vec![summary])),
        }
    }
    panels
}

fn draw_header(canvas: &Canvas<'_>, comparison: &Comparison) -> Result<(), Box<dyn Error>> {
    let host = &comparison.host;
    let machine = format!("{}, Linux {}, {}, commit {}", host.cpu, host.kernel, host.date, host.commit);
    write(canvas, "What an answer costs, on one core", (MARGIN, 28), 22, INK, HPos::Left)?;
    write(canvas, &machine, (MARGIN, 54), 13, FAINT_INK, HPos::Left)?;
    write(canvas, "CPU microseconds per answer (less is better)", (CPU_BARS.0, 80), 14, INK, HPos::Left)?;
    write(canvas, "answers a second (more is better)", (QPS_BARS.0, 80), 14, INK, HPos::Left)
}

fn draw_panel(
    canvas: &Canvas<'_>,
    top: i32,
    measurement: &Measurement,
    rows: &[&Summary],
) -> Result<(), Box<dyn Error>> {
    let rule = PathElement::new([(MARGIN, top), (WIDTH - MARGIN, top)], GRID);
    canvas.draw(&rule)?;
    write(canvas, &measurement.name(), (MARGIN, top + PANEL_TITLE_HEIGHT / 2), 16, INK, HPos::Left)?;
    let most =
        |figure: fn(&Summary) -> Spread| rows.iter().map(|row| figure(row).max).fold(f64::MIN_POSITIVE, f64::max);
    let cpu = Scale { bars: CPU_BARS, most: most(|row| row.cpu_us) };
    let qps = Scale { bars: QPS_BARS, most: most(|row| row.qps) };
    let (first, last) = (top + PANEL_TITLE_HEIGHT, top + PANEL_TITLE_HEIGHT + ROW_HEIGHT * rows.len() as i32);
    if let Some(floor) = rows.iter().find(|row| row.contender == FLOOR) {
        for (scale, figure) in [(&cpu, floor.cpu_us.median), (&qps, floor.qps.median)] {
            let x = scale.x(figure);
            for y in (first..last - DASH).step_by(2 * DASH as usize) {
                canvas.draw(&PathElement::new([(x, y), (x, y + DASH)], FLOOR_COLOR))?;
            }
        }
    }
    for (middle, row) in (first + ROW_HEIGHT / 2..).step_by(ROW_HEIGHT as usize).zip(rows) {
        let ink = if is_corewall(&row.contender) { COREWALL_COLOR } else { INK };
        write(canvas, &row.contender, (NAMES_RIGHT, middle), 14, ink, HPos::Right)?;
        let ratio = row.floor_ratio.map(|ratio| format!(", {:.2} x floor", ratio.median)).unwrap_or_default();
        draw_bar(canvas, &cpu, middle, row, row.cpu_us, &format!("{:.2}{ratio}", row.cpu_us.median))?;
        let bad = row.lost + row.wrong;
        let bad = if bad > 0 { format!(", {bad} lost or wrong") } else { String::new() };
        draw_bar(canvas, &qps, middle, row, row.qps, &format!("{}{bad}", thousands(row.qps.median)))?;
    }
    Ok(())
}

/// From figures to places of one column of bars.
struct Scale {
    /// Where they begin, and the length of the longest.
    bars: (i32, i32),
    /// The figure of that one.
    most: f64,
}

impl Scale {
    fn x(&self, figure: f64) -> i32 {
        self.bars.0 + (figure / self.most * f64::from(self.bars.1)).round() as i32
    }
}

fn draw_bar(
    canvas: &Canvas<'_>,
    scale: &Scale,
    middle: i32,
    row: &Summary,
    spread: Spread,
    figure: &str,
) -> Result<(), Box<dyn Error>> {
    let color = match row.contender.as_str() {
        FLOOR => FLOOR_COLOR,
        COREWALL => COREWALL_COLOR,
        other if is_corewall(other) => COREWALL_OTHER_COLOR,
        _ => PEER_COLOR,
    };
    let (top, bottom) = (middle - BAR_HEIGHT / 2, middle + BAR_HEIGHT / 2);
    canvas.draw(&Rectangle::new([(scale.bars.0, top), (scale.x(spread.median), bottom)], color.filled()))?;
    let (least, most) = (scale.x(spread.min), scale.x(spread.max));
    // Ends a pixel apart would be a blot.
    if most - least > 1 {
        canvas.draw(&PathElement::new([(least, middle), (most, middle)], INK))?;
        for x in [least, most] {
            canvas.draw(&PathElement::new([(x, middle - 4), (x, middle + 4)], INK))?;
        }
    }
    let left = most.max(scale.x(spread.median)) + 8;
    // The floor's line ends where a figure stands.
    let right = left + FIGURE_CHARACTER_WIDTH * figure.len() as i32;
    canvas.draw(&Rectangle::new([(left - 2, middle - 8), (right, middle + 8)], WHITE.filled()))?;
    write(canvas, figure, (left, middle), FIGURE_SIZE, INK, HPos::Left)
}

fn write(
    canvas: &Canvas<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    color: RGBColor,
    side: HPos,
) -> Result<(), Box<dyn Error>> {
    let style = ("sans-serif", size).into_font().color(&color).pos(Pos::new(side, VPos::Center));
    canvas.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}

/// A whole number with its thousands set apart.
fn thousands(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::tests::comparison;

    #[test]
    fn every_contender_of_every_mix_is_in_the_picture_with_its_figure() {
        let path = std::env::temp_dir().join(format!("corewall-bench-chart-{}.svg", std::process::id()));
        let found = comparison(&[
            ("blocked", FLOOR, &[2.0, 2.0, 2.0]),
            ("blocked", COREWALL, &[2.0, 2.25, 3.0]),
            ("blocked", "unbound", &[6.0]),
            ("cached", FLOOR, &[2.0]),
            ("cached", "dnsdist", &[4.75]),
        ]);
        draw(&found, &path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let lines: Vec<&str> = svg.lines().map(str::trim).collect();
        for text in ["blocked", "cached", "unbound", "dnsdist", "2.25, 1.12 x floor", "4.75, 2.38 x floor", "500,000"] {
            assert!(lines.contains(&text), "{text} is not in\n{svg}");
        }
        // The longest bar ends where its scale does.
        let end = CPU_BARS.0 + CPU_BARS.1;
        let unbound = format!("x=\"{}\" y=", CPU_BARS.0);
        assert!(svg.contains(&unbound) && svg.contains(&format!("width=\"{}\"", end - CPU_BARS.0)), "{svg}");
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([7.4, 999.0, 1_000.0, 1_234_567.0].map(thousands), ["7", "999", "1,000", "1,234,567"]);
    }
}
