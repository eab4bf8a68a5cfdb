//! What a build has to tell: rules by list and kind, what was left out and why, and what it cost.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use corewall_sharding::build::BuildReport;
use corewall_sharding::manifest::Layout;
use corewall_sharding::rule::{Kind, Scope};
use serde::{Deserialize, Serialize};

use super::ListSpec;
use super::compare::Comparison;
use super::fold::Folded;
use crate::limits;
use crate::lists::{Counts, Format, SkipReason};

/// Seconds from which on a stage is told in the report's text.
const STAGE_SHOWN_S: f64 = 0.1;

/// A whole build. Shown, it is the text that `corewall build` ends with.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Number of the generation.
    pub generation: u64,
    /// Whether it is the current one now. If not, its rules would newly block too many of the names asked for most.
    pub published: bool,
    /// What it changes among the names asked for most; none when that was not asked or there was nothing to compare with.
    pub comparison: Option<Comparison>,
    /// Rules kept, by name, pattern and address; address rewrites not.
    pub rules: u64,
    /// Rules left out because their list had said them before.
    pub duplicates: u64,
    /// Lines and names refused.
    pub refused: u64,
    /// Lines and names skipped: well formed, and no business of a DNS filter.
    pub skipped: u64,
    /// Rules that `adblock_modifiers = "strip"` would bring back.
    pub gained_by_stripping: u64,
    /// Patterns by engine.
    pub patterns: PatternCounts,
    /// Shards.
    pub shards: usize,
    /// Bytes of shards and filters.
    pub bytes: u64,
    /// Bytes of places beside them; zero when none were written.
    pub places_bytes: u64,
    /// The bytes of shards and filters for each rule.
    pub bytes_per_rule: f64,
    /// How the rules by name lie in them.
    pub layout: Layout,
    /// Seconds from the first list to the publication.
    pub seconds: f64,
    /// The same by stage, in their order.
    pub stages: Vec<StageSeconds>,
    /// Rules a second, from the first list to the publication.
    pub rules_per_second: f64,
    /// Parts of lists that an earlier build had read; 0 when this one did not go on with any.
    pub resumed_parts: u64,
    /// Shards that an earlier build had written.
    pub resumed_shards: u64,
    /// Bytes of the sorted runs that lay on the disk between reading and writing.
    pub spilled_bytes: u64,
    /// Most memory that the process has had, in bytes; 0 where the system does not tell.
    pub rss_bytes_max: u64,
    /// File of the refused lines; none without any.
    pub refused_file: Option<PathBuf>,
    /// What was changed by hand and is part of the generation now; none when it stays live.
    pub folded: Option<Folded>,
    /// What went wrong after the publication, and does not touch the new generation.
    pub warnings: Vec<String>,
    /// By list, in their order.
    pub lists: Vec<ListReport>,
}

/// Seconds of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StageSeconds {
    /// `prepare`, `scan`, `read`, `compile`, `write`, `sync` or `publish`.
    pub stage: &'static str,
    /// How long it took.
    pub seconds: f64,
}

/// A clock that is told when each stage ends.
pub(super) struct Stages {
    started: Instant,
    last: Instant,
    ended: Vec<StageSeconds>,
}

impl Stages {
    pub(super) fn start() -> Self {
        let started = Instant::now();
        Self { started, last: started, ended: Vec::new() }
    }

    pub(super) fn end(&mut self, stage: &'static str) {
        let now = Instant::now();
        self.ended.push(StageSeconds { stage, seconds: now.duration_since(self.last).as_secs_f64() });
        self.last = now;
    }
}

/// Patterns by the engine that decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PatternCounts {
    /// Hyperscan alone.
    pub plain: usize,
    /// Found by Hyperscan, confirmed by another engine: look-around and back-references.
    pub confirmed: usize,
}

/// One list.
#[derive(Clone, Debug, Serialize)]
pub struct ListReport {
    /// Its name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Its syntax.
    pub format: Format,
    /// Lines, or rows of a database.
    pub lines: u64,
    /// Rules kept, by kind and scope.
    pub rules: Vec<RuleCount>,
    /// Address rewrites kept.
    pub ip_rewrites: u64,
    /// Rules that the list had said before.
    pub duplicates: u64,
    /// Lines and names skipped, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Lines and names refused.
    pub refused: u64,
    /// The same by reason.
    pub refused_for: BTreeMap<String, u64>,
    /// The first of them, at most [`limits::REFUSED_SHOWN_MAX`].
    pub first_refused: Vec<Refusal>,
    /// Rules that `adblock_modifiers = "strip"` would bring back.
    pub gained_by_stripping: u64,
}

/// Rules of one kind and scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RuleCount {
    /// What they do.
    pub kind: Kind,
    /// Which names they speak of.
    pub scope: Scope,
    /// How many.
    pub rules: u64,
}

/// One refused line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Line number, or `table:rowid` of a database.
    pub place: String,
    /// Why.
    pub reason: String,
    /// Its text, maybe shortened.
    pub text: String,
}

impl ListReport {
    pub(super) fn new(spec: &ListSpec) -> Self {
        Self {
            name: spec.list.name.clone(),
            path: spec.path.clone(),
            format: spec.format,
            lines: 0,
            rules: Vec::new(),
            ip_rewrites: 0,
            duplicates: 0,
            skipped: BTreeMap::new(),
            refused: 0,
            refused_for: BTreeMap::new(),
            first_refused: Vec::new(),
            gained_by_stripping: 0,
        }
    }

    pub(super) fn take_counts(&mut self, counts: &Counts) {
        self.lines = counts.lines;
        self.gained_by_stripping = counts.gained_by_stripping;
        let skipped = SkipReason::ALL.iter().map(|&reason| (reason.to_string(), counts.skipped(reason)));
        self.skipped = skipped.filter(|(_, count)| *count > 0).collect();
    }

    /// Rules kept.
    pub fn rule_count(&self) -> u64 {
        self.rules.iter().map(|count| count.rules).sum()
    }
}

impl Report {
    pub(super) fn new(
        generation: u64,
        built: BuildReport,
        mut lists: Vec<ListReport>,
        patterns: PatternCounts,
        refused_file: Option<PathBuf>,
        stages: Stages,
    ) -> Self {
        let seconds = stages.started.elapsed().as_secs_f64();
        for (list, built) in lists.iter_mut().zip(&built.lists) {
            let count = |(&(kind, scope), &rules): (&(Kind, Scope), &u64)| RuleCount { kind, scope, rules };
            list.rules = built.rules.iter().map(count).collect();
            list.ip_rewrites = built.ip_rewrites;
            list.duplicates = built.duplicates;
        }
        Self {
            generation,
            published: true,
            comparison: None,
            rules: built.rules,
            duplicates: built.duplicates,
            refused: lists.iter().map(|list| list.refused).sum(),
            skipped: lists.iter().flat_map(|list| list.skipped.values()).sum(),
            gained_by_stripping: lists.iter().map(|list| list.gained_by_stripping).sum(),
            patterns,
            shards: built.shard_bytes.len(),
            bytes: built.shard_bytes.iter().sum::<u64>() + built.filter_bytes,
            places_bytes: built.places_bytes,
            bytes_per_rule: built.bytes_per_rule(),
            layout: Layout::default(),
            seconds,
            stages: stages.ended,
            rules_per_second: if seconds > 0.0 { built.rules as f64 / seconds } else { 0.0 },
            resumed_parts: built.parts_resumed,
            resumed_shards: built.shards_resumed,
            spilled_bytes: built.spilled_bytes,
            rss_bytes_max: rss_bytes_max().unwrap_or(0),
            refused_file,
            folded: None,
            warnings: Vec::new(),
            lists,
        }
    }
}

/// Most memory that this process has had.
fn rss_bytes_max() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// A kind as the configuration and the README write it.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::ForwardAllow => "forward-allow",
        Kind::ForwardBlock => "forward-block",
        Kind::Allow => "allow",
        Kind::Alias => "alias",
        Kind::Block => "block",
    }
}

/// A scope likewise.
pub fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Exact => "exact",
        Scope::Subtree => "subtree",
        Scope::Below => "below",
        Scope::Pattern => "pattern",
        Scope::Address => "address",
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for list in &self.lists {
            write!(f, "{list}")?;
        }
        let published = if self.published { "published" } else { "built, but not published" };
        writeln!(f, "generation {} {published}: {} rules in {} shards", self.generation, self.rules, self.shards)?;
        if self.resumed_parts > 0 {
            writeln!(f, "  went on with an earlier build: {} parts of lists had been read", self.resumed_parts)?;
        }
        if let Some(comparison) = &self.comparison {
            write!(f, "{comparison}")?;
        }
        let PatternCounts { plain, confirmed } = self.patterns;
        if plain + confirmed > 0 {
            writeln!(f, "  patterns: {plain} compiled, {confirmed} compiled with confirmation by a second engine")?;
        }
        writeln!(f, "  duplicates {}, skipped {}, refused {}", self.duplicates, self.skipped, self.refused)?;
        if let Some(Folded { overlay_seq, added, left_out }) = self.folded {
            writeln!(f, "  live rules up to entry {overlay_seq}: {added} added, {left_out} rules of lists left out")?;
        }
        if let Some(file) = &self.refused_file {
            writeln!(f, "  refused lines: {}", file.display())?;
        }
        for warning in &self.warnings {
            writeln!(f, "  warning: {warning}")?;
        }
        if self.gained_by_stripping > 0 {
            let gain = self.gained_by_stripping;
            writeln!(
                f,
                "  adblock_modifiers = \"strip\" would bring back {gain} rules with modifiers meant for browsers"
            )?;
        }
        write!(f, "  {} bytes on disk, {:.1} a rule; ", self.bytes, self.bytes_per_rule)?;
        if self.places_bytes > 0 {
            write!(f, "{} more for places; ", self.places_bytes)?;
        }
        writeln!(f, "{:.2} s, at most {} MiB of memory", self.seconds, self.rss_bytes_max >> 20)?;
        // What took no time is not worth a word.
        let worth = self.stages.iter().filter(|stage| stage.seconds >= STAGE_SHOWN_S);
        let stages: Vec<String> =
            worth.map(|StageSeconds { stage, seconds }| format!("{stage} {seconds:.1} s")).collect();
        if stages.is_empty() {
            return Ok(());
        }
        writeln!(f, "  {:.0} rules a second; {}", self.rules_per_second, stages.join(", "))
    }
}

impl fmt::Display for ListReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}, {}): {} lines", self.name, self.format, self.path.display(), self.lines)?;
        for RuleCount { kind, scope, rules } in &self.rules {
            writeln!(f, "  {rules:>10}  {} {}", kind_name(*kind), scope_name(*scope))?;
        }
        if self.ip_rewrites > 0 {
            writeln!(f, "  {:>10}  ip-rewrite", self.ip_rewrites)?;
        }
        if self.duplicates > 0 {
            writeln!(f, "  {:>10}  duplicates", self.duplicates)?;
        }
        for (reason, count) in &self.skipped {
            writeln!(f, "  {count:>10}  skipped: {reason}")?;
        }
        for (reason, count) in &self.refused_for {
            writeln!(f, "  {count:>10}  refused: {reason}")?;
        }
        for Refusal { place, reason, text } in &self.first_refused {
            writeln!(f, "    {}:{place}: {reason}: {text}", self.path.display())?;
        }
        if self.refused > limits::REFUSED_SHOWN_MAX as u64 {
            writeln!(f, "    and {} more", self.refused - limits::REFUSED_SHOWN_MAX as u64)?;
        }
        Ok(())
    }
}
