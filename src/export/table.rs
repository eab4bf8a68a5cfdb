//! CSV and JSON lines: every rule with all that it says, a row each.
//!
//! The parts of a row that come from its class are put together once a class; what is left for each of billions of rules is
//! its key and target.

use std::io::{self, Write};

use corewall_sharding::rule::{Class, ClassId, IpRewrite};
use corewall_sharding::schema;
use ipnet::IpNet;
use serde::Serialize;

use super::said::Said;
use super::{Book, Left, Writer};

/// The kind of an address rewrite.
const IP_REWRITE: &str = "ip-rewrite";
/// The columns of CSV.
const COLUMNS: &str = "kind,scope,key,target,important,list,category,condition,servers,answer,alias_labels\r\n";

/// What stands before and behind key and target.
struct Around {
    before: String,
    behind: String,
}

/// A row of a class whose number is not known is not written: the store refuses such a generation when it opens it.
fn around(classes: &[Around], class: ClassId) -> Option<&Around> {
    classes.get(class as usize)
}

/// Writes CSV (RFC 4180).
pub struct CsvWriter<'a> {
    book: Book<'a>,
    classes: Vec<Around>,
    left: Left,
}

impl<'a> CsvWriter<'a> {
    pub fn new(book: Book<'a>) -> Self {
        let classes = book.classes.iter().map(|class| csv_around(book, class)).collect();
        Self { book, classes, left: Left::default() }
    }

    fn row(&mut self, key: &str, class: ClassId, target: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        let Some(Around { before, behind }) = around(&self.classes, class) else { return Ok(()) };
        self.left.written += 1;
        write!(out, "{before},{},{},{behind}\r\n", cell(key), cell(target.unwrap_or_default()))
    }
}

fn csv_around(book: Book<'_>, class: &Class) -> Around {
    let said = Said::of(book, class);
    let condition = if said.condition.is_empty() { String::new() } else { json(&said.condition) };
    let answer = said.answer.as_ref().map_or(String::new(), |answer| match answer {
        super::said::SaidAnswer::Mode(mode) => (*mode).to_owned(),
        records => json(records),
    });
    let cells = [
        said.important.to_string(),
        said.list,
        said.category,
        condition,
        said.servers.join(" "),
        answer,
        said.alias_labels.unwrap_or_default().to_owned(),
    ];
    Around {
        before: format!("{},{}", schema::kind_word(class.kind), schema::scope_word(class.scope)),
        behind: cells.iter().map(|text| cell(text)).collect::<Vec<_>>().join(","),
    }
}

/// A value as one cell.
fn cell(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains([',', '"', '\r', '\n']) || text.starts_with(' ') || text.ends_with(' ') {
        return format!("\"{}\"", text.replace('"', "\"\"")).into();
    }
    text.into()
}

impl Writer for CsvWriter<'_> {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(COLUMNS.as_bytes())
    }

    fn name(&mut self, name: &str, class: ClassId, target: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        self.row(shown(name), class, target.map(shown), out)
    }

    fn pattern(&mut self, regex: &str, class: ClassId, target: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        self.row(regex, class, target.map(shown), out)
    }

    fn address(&mut self, net: &IpNet, class: ClassId, target: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        self.row(&schema::source_text(net), class, target.map(shown), out)
    }

    fn rewrite(&mut self, rewrite: &IpRewrite, out: &mut dyn Write) -> io::Result<()> {
        let list = self.book.lists.get(usize::from(rewrite.list));
        let (name, category) = list.map_or(("", ""), |list| (&list.name, &list.category));
        self.left.written += 1;
        let (name, category, from) = (cell(name), cell(category), schema::source_text(&rewrite.from));
        write!(out, "{IP_REWRITE},,{from},{},false,{name},{category},,,,\r\n", rewrite.to)
    }

    fn left(self: Box<Self>) -> Left {
        self.left
    }
}

/// Writes JSON lines.
pub struct JsonWriter<'a> {
    book: Book<'a>,
    classes: Vec<Around>,
    left: Left,
}

impl<'a> JsonWriter<'a> {
    pub fn new(book: Book<'a>) -> Self {
        let around = |class: &Class| Around {
            before: format!(
                "{{\"kind\":\"{}\",\"scope\":\"{}\",\"key\":",
                schema::kind_word(class.kind),
                schema::scope_word(class.scope)
            ),
            // The rest of the object, without its brace.
            behind: json(&Said::of(book, class)).split_off(1),
        };
        Self { book, classes: book.classes.iter().map(around).collect(), left: Left::default() }
    }

    fn row(&mut self, key: &str, class: ClassId, target: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        let Some(Around { before, behind }) = around(&self.classes, class) else { return Ok(()) };
        self.left.written += 1;
        out.write_all(before.as_bytes())?;
        serde_json::to_writer(&mut *out, key)?;
        if let Some(target) = target {
            out.write_all(b",\"target\":")?;
            serde_json::to_writer(&mut *out, target)?;
        }
        writeln!(out, ",{behind}")
    }
}

impl Writer for JsonWriter<'_> {
    fn name(&mut self, name: &str, class: ClassId, target: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        self.row(shown(name), class, target.map(shown), out)
    }

    fn pattern(&mut self, regex: &str, class: ClassId, target: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        self.row(regex, class, target.map(shown), out)
    }

    fn address(&mut self, net: &IpNet, class: ClassId, target: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        self.row(&schema::source_text(net), class, target.map(shown), out)
    }

    fn rewrite(&mut self, rewrite: &IpRewrite, out: &mut dyn Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Row<'a> {
            kind: &'static str,
            key: String,
            target: String,
            list: &'a str,
        }
        let list = self.book.lists.get(usize::from(rewrite.list)).map_or("", |list| list.name.as_str());
        let row =
            Row { kind: IP_REWRITE, key: schema::source_text(&rewrite.from), target: rewrite.to.to_string(), list };
        self.left.written += 1;
        serde_json::to_writer(&mut *out, &row)?;
        out.write_all(b"\n")
    }

    fn left(self: Box<Self>) -> Left {
        self.left
    }
}

/// The root is the empty text in the store, and a dot everywhere else.
fn shown(name: &str) -> &str {
    if name.is_empty() { "." } else { name }
}

/// JSON of texts, numbers and lists of them: there is nothing that it cannot hold.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_when_it_must_be() {
        for (text, wanted) in [
            ("a", "a"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("a\nb", "\"a\nb\""),
            (" a", "\" a\""),
        ] {
            assert_eq!(cell(text), wanted);
        }
    }
}
