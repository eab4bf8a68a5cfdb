//! `corewall export`: the rules of a generation as a list.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use corewall_sharding::generation::Generation;
use corewall_sharding::rule::{Kind, ListId, Scope};

use super::Failure;
use super::store::StoreArguments;
use crate::export::{self, ExportError, Format, Left, Selection};

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// Write the rules of a generation out as a list, in the order of the shards and of the names in each.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Its syntax
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "jsonl")]
    format: Format,
    /// Only the rules of this list; may be given several times
    #[arg(long, value_name = "NAME")]
    list: Vec<String>,
    /// Only rules of this kind; may be given several times
    #[arg(long, value_enum, value_name = "KIND")]
    kind: Vec<KindArgument>,
    /// Only rules of this scope; may be given several times
    #[arg(long, value_enum, value_name = "SCOPE")]
    scope: Vec<ScopeArgument>,
    /// Of this generation instead of the current one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    generation: Option<u64>,
    /// Into this file, which appears when it is complete, instead of the standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KindArgument {
    ForwardAllow,
    ForwardBlock,
    Allow,
    Alias,
    Block,
    IpRewrite,
}

impl KindArgument {
    fn kind(self) -> Option<Kind> {
        Some(match self {
            Self::ForwardAllow => Kind::ForwardAllow,
            Self::ForwardBlock => Kind::ForwardBlock,
            Self::Allow => Kind::Allow,
            Self::Alias => Kind::Alias,
            Self::Block => Kind::Block,
            Self::IpRewrite => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScopeArgument {
    Exact,
    Subtree,
    Below,
    Pattern,
    Address,
}

impl ScopeArgument {
    fn scope(self) -> Scope {
        match self {
            Self::Exact => Scope::Exact,
            Self::Subtree => Scope::Subtree,
            Self::Below => Scope::Below,
            Self::Pattern => Scope::Pattern,
            Self::Address => Scope::Address,
        }
    }
}

/// Exports, and tells on the standard error what the format could not say.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let store = arguments.store.open()?;
    let generation = match arguments.generation {
        Some(number) if !store.generation_dir(number).is_dir() => {
            return Err(Failure::usage(format_args!(
                "there is no generation {number}; `corewall generations` lists those that are there"
            )));
        }
        Some(number) => store.generation(number),
        None => store.current(),
    };
    let generation = generation.map_err(Failure::runtime)?;
    let kinds: Vec<Kind> = arguments.kind.iter().filter_map(|kind| kind.kind()).collect();
    let selection = Selection {
        lists: lists(&generation, &arguments.list)?,
        kinds: (!arguments.kind.is_empty()).then(|| (kinds, arguments.kind.contains(&KindArgument::IpRewrite))),
        scopes: arguments.scope.iter().map(|scope| scope.scope()).collect(),
    };
    let exported = match &arguments.output {
        Some(path) => to_file(path, &generation, &selection, arguments.format),
        None => {
            let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
            export::export(&generation, &selection, arguments.format, &mut out)
        }
    };
    match exported {
        Ok(left) => {
            eprint!("{}", text(generation.number, &left));
            Ok(())
        }
        // A reader that went away, as `head` does, is no failure.
        Err(ExportError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::runtime(error)),
    }
}

/// The numbers of the lists that are named.
fn lists(generation: &Generation, names: &[String]) -> Result<Vec<ListId>, Failure> {
    let number = |name: &String| {
        let place = generation.lists.iter().zip(0..).find(|(list, _)| list.name == *name);
        place.map(|(_, id)| id).ok_or_else(|| {
            let there: Vec<&str> = generation.lists.iter().map(|list| list.name.as_str()).collect();
            let there = there.join("`, `");
            Failure::usage(format_args!("generation {} has no list `{name}`; it has `{there}`", generation.number))
        })
    };
    names.iter().map(number).collect()
}

/// Writes beside the file and puts it in its place when it is complete and on the disk.
fn to_file(path: &Path, generation: &Generation, selection: &Selection, format: Format) -> Result<Left, ExportError> {
    let mut partly = path.as_os_str().to_owned();
    partly.push(".partly");
    let partly = PathBuf::from(partly);
    let write = || {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, File::create(&partly)?);
        let left = export::export(generation, selection, format, &mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        fs::rename(&partly, path)?;
        Ok(left)
    };
    let written = write();
    if written.is_err() {
        // What was written of it is of no use; the error is what is told.
        let _ = fs::remove_file(&partly);
    }
    written
}

fn text(generation: u64, left: &Left) -> String {
    let mut text = format!("generation {generation}: {} rules exported\n", left.written);
    for (why, count) in &left.out {
        text += &format!("  {count} left out: {why}\n");
    }
    for (what, count) in &left.noted {
        text += &format!("  {count}: {what}\n");
    }
    text
}
