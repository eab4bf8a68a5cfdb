//! `corewall tune`: what a busy server should have, what this machine has, why, and what mends the difference.
//!
//! Nothing is changed here; `tuning/apply.sh` runs what `--commands` prints. Exit code 0 when nothing differs, 1 when something
//! does, 2 for wrong usage, configuration or tuning files.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{ConfigArgument, Failure, print, print_json};
use crate::serve::placement::Placement;
use crate::serve::{cores, topology};
use crate::tune::facts::Facts;
use crate::tune::finding::{Finding, Group, State};
use crate::tune::judge::judge;
use crate::tune::machine::{Machine, receive_buffer_granted, root};
use crate::tune::programs::Installed;
use crate::tune::site::Site;
use crate::tune::wanted::{self, Wanted};

/// Columns of a report on a terminal.
const COLUMNS: usize = 118;
/// Columns of the widest cell; a longer one stands by itself.
const CELL_COLUMNS_MAX: usize = 40;

/// Hold this machine against what a busy server should have, and tell what mends the difference.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// An interface that questions come in by; may be given several times. Without it those of the listen addresses
    #[arg(long, value_name = "IF")]
    interface: Vec<String>,
    /// A group (sysctl, buffers, nic, irq, cpu, memory, limits, storage, clock, kernel) or one value of it, as `nic.rx_ring`; may
    /// be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// A folder with changed files of `tuning/`; those it lacks are as compiled in
    #[arg(long, value_name = "DIR")]
    tuning: Option<PathBuf>,
    /// The process whose limits are looked at, instead of this one's
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Also tell why what is good is wanted
    #[arg(long)]
    why: bool,
    /// Print the report as JSON
    #[arg(long, conflicts_with_all = ["commands", "print", "why"])]
    json: bool,
    /// Print the commands that mend what differs, one a line, with comments: a script for a shell
    #[arg(long, conflicts_with_all = ["print", "why"])]
    commands: bool,
    /// With --commands: also those of what is optional
    #[arg(long, requires = "commands")]
    optional: bool,
    /// Print a file of `tuning/`, such as 90-corewall.conf, and nothing else
    #[arg(long, value_name = "FILE")]
    print: Option<String>,
}

/// A space at which no line is broken; not shown.
const UNBROKEN: &str = "\u{a0}";

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The configuration; none means the defaults.
    configuration: Option<&'a PathBuf>,
    /// Workers' cores.
    cores: &'a [usize],
    /// Interfaces that were looked at.
    interfaces: Vec<&'a str>,
    /// Where the store lies.
    store: &'a PathBuf,
    counts: Counts,
    findings: &'a [Finding],
}

/// How many findings there are of each state.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    good: usize,
    differs: usize,
    optional: usize,
    unknown: usize,
    not_applicable: usize,
}

impl Counts {
    fn of(findings: &[Finding]) -> Self {
        let mut counts = Self::default();
        for finding in findings {
            *match finding.state {
                State::Good => &mut counts.good,
                State::Differs => &mut counts.differs,
                State::Optional => &mut counts.optional,
                State::Unknown => &mut counts.unknown,
                State::NotApplicable => &mut counts.not_applicable,
            } += 1;
        }
        counts
    }
}

/// Compares and prints.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let folder = arguments.tuning.as_deref();
    if let Some(name) = &arguments.print {
        return print(wanted::text(folder, name).map_err(Failure::usage)?);
    }
    let wanted = Wanted::load(folder).map_err(Failure::usage)?;
    let (config, file) = arguments.config.load()?;
    let allowed = cores::allowed().map_err(Failure::usage)?;
    let placement =
        Placement::resolve(config.placement(), &topology::Machine::here(), allowed).map_err(Failure::usage)?;
    let mut site = Site::new(&config, file, placement.workers);
    site.interfaces.clone_from(&arguments.interface);
    site.pid = arguments.pid;
    let machine = Machine::new(root(), &Installed, &receive_buffer_granted);
    let facts = Facts::read(&machine, &site, &wanted.sysctls);
    let mut findings = judge(&wanted, &facts, &site);
    check_names(&arguments.only, &findings)?;
    findings.retain(|finding| arguments.only.is_empty() || arguments.only.iter().any(|name| is_named(finding, name)));
    let counts = Counts::of(&findings);
    if arguments.json {
        let interfaces = facts.interfaces.iter().flatten().map(|interface| interface.name.as_str()).collect();
        let Site { configuration, cores, store, .. } = &site;
        let configuration = configuration.as_ref();
        print_json(&Report { configuration, cores, interfaces, store, counts, findings: &findings })?;
    } else if arguments.commands {
        print(script(&findings, arguments.optional))?;
    } else {
        print(head(&site, &facts) + &text(&findings, arguments.why))?;
    }
    match findings.iter().any(|finding| finding.state == State::Differs) {
        // Everything has been said.
        true => Err(Failure { messages: Vec::new(), code: 1 }),
        false => Ok(()),
    }
}

fn is_named(finding: &Finding, name: &str) -> bool {
    finding.group.word() == name || finding.path() == name
}

/// A name that is mistyped would otherwise mean that all is well.
fn check_names(names: &[String], findings: &[Finding]) -> Result<(), Failure> {
    for name in names {
        let is_group = Group::ALL.iter().any(|group| group.word() == name);
        if !is_group && !findings.iter().any(|finding| finding.path() == *name) {
            let groups: Vec<&str> = Group::ALL.iter().map(|group| group.word()).collect();
            return Err(Failure::usage(format_args!(
                "--only: `{name}` is neither a group ({}) nor one of their values, written as `nic.rx_ring`",
                groups.join(", ")
            )));
        }
    }
    Ok(())
}

fn head(site: &Site, facts: &Facts) -> String {
    let configuration =
        site.configuration.as_ref().map_or("the defaults".to_owned(), |file| file.display().to_string());
    let interfaces = match &facts.interfaces {
        Ok(interfaces) => interfaces.iter().map(|interface| interface.name.clone()).collect::<Vec<_>>().join(", "),
        Err(untold) => untold.to_string(),
    };
    format!(
        "configuration  {configuration}\nworkers        {} on cores {}\ninterfaces     {interfaces}\nstore          {}\n",
        site.cores.len(),
        cores::list(&site.cores),
        site.store.display()
    )
}

/// A table for each group; below a row that is not as wanted, why and what mends it.
fn text(findings: &[Finding], why: bool) -> String {
    let mut text = String::new();
    for group in Group::ALL {
        let of_group: Vec<&Finding> = findings.iter().filter(|finding| finding.group == group).collect();
        if of_group.is_empty() {
            continue;
        }
        text += &format!("\n{group}\n");
        let cells: Vec<[String; 3]> = of_group.iter().map(|finding| cells(finding)).collect();
        let width = |column: usize| {
            let widths = cells.iter().map(|row| row[column].chars().count());
            widths.filter(|width| *width <= CELL_COLUMNS_MAX).max().unwrap_or_default()
        };
        let (name, wanted) = (width(0), width(1));
        let mut said = Said::default();
        for (finding, cells) in of_group.iter().zip(&cells) {
            let row =
                format!("  {:<8}  {:<name$}  {:<wanted$}  {}", finding.state.word(), cells[0], cells[1], cells[2]);
            text += row.trim_end();
            text.push('\n');
            text += &below(finding, why, &mut said);
        }
    }
    let Counts { good, differs, optional, unknown, not_applicable } = Counts::of(findings);
    text + &format!(
        "\n{good} good, {differs} differ, {optional} optional, {unknown} cannot be told, {not_applicable} do not apply here\n"
    )
}

fn cells(finding: &Finding) -> [String; 3] {
    let name = match &finding.subject {
        // The store's path is in the head; limits speak of one process.
        Some(subject) if matches!(finding.group, Group::Nic | Group::Irq | Group::Cpu) => {
            format!("{} {}", subject, finding.name)
        }
        _ => finding.name.clone(),
    };
    let found = match finding.state {
        State::Unknown | State::NotApplicable => finding.note.clone().unwrap_or_default(),
        _ => format!("found {}", finding.found.as_deref().unwrap_or("nothing")),
    };
    [name, format!("wanted {}", finding.wanted), found]
}

/// What the last rows of a group have said: settings that belong together have their reason in common.
#[derive(Default)]
struct Said {
    why: String,
    lasting: String,
}

impl Said {
    /// `words`, or that they stand above.
    fn anew<'a>(last: &mut String, words: &'a str) -> &'a str {
        if last == words {
            return "as above";
        }
        words.clone_into(last);
        words
    }
}

fn below(finding: &Finding, why: bool, said: &mut Said) -> String {
    let is_open = matches!(finding.state, State::Differs | State::Optional);
    let mut text = String::new();
    let mut say = |word: &str, words: &str| text += &wrapped(&format!("{word:<8}"), words);
    if is_open && let Some(note) = &finding.note {
        say("note", note);
    }
    if is_open || why {
        say("why", Said::anew(&mut said.why, &finding.why));
    }
    if is_open {
        for command in &finding.commands {
            // Never broken: it is to be copied.
            say("mend", &command.replace(' ', UNBROKEN));
        }
        if let Some(words) = &finding.by_hand {
            say("by hand", words);
        }
        say("lasts", Said::anew(&mut said.lasting, &finding.lasting));
    }
    text.replace(UNBROKEN, " ")
}

/// Words within [`COLUMNS`], `label` in front of the first line.
fn wrapped(label: &str, words: &str) -> String {
    const INDENT: usize = 12;
    let mut text = String::new();
    let mut line = format!("{:INDENT$}{label}", "");
    let margin = line.chars().count();
    let mut is_first = true;
    for word in words.split(' ') {
        if !is_first && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            text += line.trim_end();
            text.push('\n');
            line = " ".repeat(margin);
        } else if !is_first {
            line.push(' ');
        }
        line += word;
        is_first = false;
    }
    text + line.trim_end() + "\n"
}

/// Commands one a line. Everything else is a comment: `# GROUP.NAME`, then what was found, then `# undo: COMMAND` and the like.
fn script(findings: &[Finding], optional: bool) -> String {
    // What a machine calls its parts may hold anything; a comment that went on in the next line would be a command.
    let comment = |words: String| format!("# {}\n", words.replace(char::is_control, " "));
    let is_meant = |state| state == State::Differs || (optional && state == State::Optional);
    let mut text = String::new();
    for finding in findings.iter().filter(|finding| is_meant(finding.state)) {
        let found = finding.found.as_deref().unwrap_or("nothing");
        text += &comment(format!("{}: wanted {}, found {found}", finding.title(), finding.wanted));
        text += &comment(format!("why: {}", finding.why));
        text += &comment(format!("lasts: {}", finding.lasting));
        if let Some(words) = &finding.by_hand {
            text += &comment(format!("by hand: {words}"));
        }
        for undo in &finding.undo {
            text += &comment(format!("undo: {undo}"));
        }
        for command in &finding.commands {
            text += &format!("{command}\n");
        }
    }
    text
}
