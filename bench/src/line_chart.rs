//! A chart of measured lines as one SVG file, which shows in a browser and in a README alike.
//!
//! Invariant: a line passes through the figures that it was given and through nothing else; nothing is smoothed.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

/// Width and height in pixels.
const SIZE: (u32, u32) = (900, 520);
/// Distinct to colour-blind readers as well (Okabe and Ito); lines past the last begin again.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// What the legend calls it.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// How the upright axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From 0 in equal steps.
    Linear,
    /// By powers of ten; figures of 0 have no place on it.
    Logarithmic,
}

/// Everything but the lines.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// Above the chart.
    pub title: &'a str,
    /// Along the lower axis.
    pub across: &'a str,
    /// Along the upright axis.
    pub upright: &'a str,
}

/// Draws `lines` into `path`.
///
/// # Errors
/// There is no point to draw, or the file cannot be written.
pub fn write(path: &Path, labels: Labels<'_>, scale: Scale, lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let points = || lines.iter().flat_map(|line| line.points.iter().copied());
        let most = |of: fn((f64, f64)) -> f64| points().map(of).fold(f64::MIN, f64::max);
        if points().next().is_none() {
            return Err(format!("{}: nothing was measured to draw", path.display()).into());
        }
        let across = 0.0..most(|point| point.0) * 1.05;
        let top = most(|point| point.1) * 1.1;
        match scale {
            Scale::Linear => draw(&area, labels, across, 0.0..top, lines)?,
            Scale::Logarithmic => {
                let least = points().map(|point| point.1).filter(|y| *y > 0.0).fold(f64::MAX, f64::min);
                draw(&area, labels, across, (least * 0.8..top).log_scale(), lines)?;
            }
        }
        area.present()?;
    }
    std::fs::write(path, svg).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn draw<Y>(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    labels: Labels<'_>,
    across: Range<f64>,
    upright: Y,
    lines: &[Line],
) -> Result<(), Box<dyn Error>>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .caption(labels.title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(across, upright)?;
    let plain = |figure: &f64| format!("{}", (figure * 100.0).round() / 100.0);
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(labels.across)
        .y_desc(labels.upright)
        .axis_desc_style(("sans-serif", 18))
        .label_style(("sans-serif", 15))
        .x_label_formatter(&plain)
        .y_label_formatter(&plain)
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let style = ShapeStyle { color: colour.to_rgba(), filled: true, stroke_width: 2 };
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style).point_size(3))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    chart
        .configure_series_labels()
        .label_font(("sans-serif", 15))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: Labels<'_> = Labels { title: "a title", across: "rate", upright: "us" };

    fn drawn(scale: Scale, points: Vec<(f64, f64)>) -> Result<String, Box<dyn Error>> {
        let name = format!("corewall-chart-{}-{scale:?}-{}.svg", std::process::id(), points.len());
        let path = std::env::temp_dir().join(name);
        write(&path, LABELS, scale, &[Line { name: "floor".to_owned(), points }])?;
        let svg = std::fs::read_to_string(&path)?;
        std::fs::remove_file(path)?;
        Ok(svg)
    }

    #[test]
    fn a_chart_tells_its_title_axes_and_lines() {
        let svg = drawn(Scale::Logarithmic, vec![(10.0, 5.0), (50.0, 50.0), (80.0, 700.0)]).unwrap();
        for said in ["a title", "rate", "us", "floor"] {
            assert!(svg.contains(&format!("\n{said}\n")), "{said}: {svg}");
        }
        // A circle for every figure.
        assert_eq!(svg.matches("<circle").count(), 3);
    }

    #[test]
    fn a_chart_without_a_figure_is_an_error() {
        assert!(drawn(Scale::Linear, Vec::new()).is_err());
    }
}
