//! The stages, in the order of a query's life.

use crate::Failure;
use crate::appliance::{Appliance, Asked};
use crate::fixtures::{Fixtures, Names, StoreKind};

/// Questions that are taken in together.
const BATCH: usize = corewall::limits::BATCH_DATAGRAMS;

/// One stage.
pub struct Stage {
    /// What it is called on the command line and in the reference.
    pub name: &'static str,
    /// What is done once for each name.
    pub does: &'static str,
    /// Over which store.
    pub store: StoreKind,
    /// With which names.
    pub names: Names,
    /// Done before each run, and not counted.
    pub prepare: fn(&mut Appliance, &[Asked]),
    /// Does it for each name; for how many of them it came to what it should.
    pub run: fn(&mut Appliance, &[Asked]) -> usize,
}

/// All of them.
pub const STAGES: [Stage; 12] = [
    Stage {
        name: "parse",
        does: "the question out of a datagram with an OPT record",
        store: StoreKind::Sql,
        names: Names::Unlisted,
        prepare: |_, _| {},
        run: |appliance, asked| asked.iter().filter(|asked| appliance.parse(&asked.datagram)).count(),
    },
    Stage {
        name: "hash",
        does: "a name off the wire to lower case, and the keyed hash of each of its suffixes",
        store: StoreKind::Sql,
        names: Names::Unlisted,
        prepare: |_, _| {},
        run: |appliance, asked| asked.iter().filter(|asked| appliance.fold_and_hash(&asked.spelled)).count(),
    },
    Stage {
        name: "filter",
        does: "a name that no filter lets pass: a probe for each suffix that may be listed",
        store: StoreKind::Sql,
        names: Names::Unlisted,
        prepare: |_, _| {},
        run: |appliance, asked| asked.iter().filter(|asked| !appliance.may_be_listed(&asked.hashes)).count(),
    },
    Stage {
        name: "row-sql",
        does: "the rule of a listed name out of a shard that SQL reads, its page in memory",
        store: StoreKind::Sql,
        names: Names::Listed,
        prepare: |_, _| {},
        run: |appliance, asked| asked.iter().filter(|asked| appliance.rows_of(asked.shard, &asked.text) > 0).count(),
    },
    Stage {
        name: "row-packed",
        does: "the same out of a packed shard",
        store: StoreKind::Packed,
        names: Names::Listed,
        prepare: |_, _| {},
        run: |appliance, asked| asked.iter().filter(|asked| appliance.rows_of(asked.shard, &asked.text) > 0).count(),
    },
    Stage {
        name: "patterns",
        does: "a name scanned for 10,000 regular expressions at once",
        store: StoreKind::Patterns,
        names: Names::Unlisted,
        prepare: |_, _| {},
        run: |appliance, asked| asked.iter().filter(|asked| appliance.scan(&asked.text)).count(),
    },
    Stage {
        name: "rewrite",
        does: "the address in an answer replaced by one of 1,000 rules, on prefixes of three lengths",
        store: StoreKind::Rewrites,
        names: Names::Unlisted,
        prepare: |appliance, _| appliance.begin_rewriting(),
        run: |appliance, asked| asked.iter().filter(|_| appliance.rewrite()).count(),
    },
    Stage {
        name: "cached",
        does: "datagram to reply, out of the cache",
        store: StoreKind::Sql,
        names: Names::Unlisted,
        prepare: fill_cache,
        run: |appliance, asked| asked.iter().filter(|asked| appliance.ask(&asked.datagram).is_answered()).count(),
    },
    Stage {
        name: "cached-batch",
        does: "the same for 32 datagrams at a time, each with a buffer of its own for the reply",
        store: StoreKind::Sql,
        names: Names::Unlisted,
        prepare: fill_cache,
        run: |appliance, asked| asked.chunks(BATCH).map(|batch| appliance.ask_batch(batch)).sum(),
    },
    Stage {
        name: "blocked-sql",
        does: "datagram to reply for a listed name that is not in the cache: filters, row, verdict, and kept in the cache",
        store: StoreKind::Sql,
        names: Names::Listed,
        prepare: |appliance, _| appliance.forget_answers(),
        run: |appliance, asked| asked.iter().filter(|asked| appliance.ask(&asked.datagram).is_answered()).count(),
    },
    Stage {
        name: "blocked-packed",
        does: "the same over packed shards",
        store: StoreKind::Packed,
        names: Names::Listed,
        prepare: |appliance, _| appliance.forget_answers(),
        run: |appliance, asked| asked.iter().filter(|asked| appliance.ask(&asked.datagram).is_answered()).count(),
    },
    Stage {
        name: "forwarded",
        does: "datagram to request, and the upstream's answer to reply, kept in the cache; two sockets' work left out",
        store: StoreKind::Sql,
        names: Names::Unlisted,
        prepare: |appliance, _| appliance.forget_answers(),
        run: |appliance, asked| asked.iter().filter(|asked| appliance.forward(&asked.datagram)).count(),
    },
];

fn fill_cache(appliance: &mut Appliance, asked: &[Asked]) {
    for asked in asked {
        if !appliance.ask(&asked.datagram).is_answered() {
            appliance.answer_upstream();
        }
    }
}

impl Stage {
    /// The stage of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<&'static Stage, Failure> {
        let names = || STAGES.map(|stage| stage.name).join(", ");
        let stage = STAGES.iter().find(|stage| stage.name == name);
        stage.ok_or_else(|| format!("no stage `{name}`; there are {}", names()).into())
    }

    /// All that it needs, opened, and warm: each thing that is done for the first time only has been done.
    ///
    /// # Errors
    /// A store cannot be opened, or the stage does not do what it should.
    pub fn warm(&self, fixtures: &Fixtures) -> Result<Ready<'_>, Failure> {
        let appliance = Appliance::open(&fixtures.store(self.store))?;
        let asked = fixtures.names(self.names)?.iter().map(|name| appliance.asked(name)).collect::<Result<_, _>>()?;
        let mut ready = Ready { stage: self, appliance, asked };
        for _ in 0..WARM_RUNS {
            ready.prepare();
            let done = ready.run();
            ready.check(done)?;
        }
        Ok(ready)
    }
}

/// The first run fills caches and sizes buffers, the second one is as all later ones.
const WARM_RUNS: usize = 2;

/// A stage that can be run.
pub struct Ready<'a> {
    stage: &'a Stage,
    appliance: Appliance,
    asked: Vec<Asked>,
}

impl Ready<'_> {
    /// Names for which a run does what the stage does.
    pub fn operations(&self) -> usize {
        self.asked.len()
    }

    /// What is to be done before each run.
    pub fn prepare(&mut self) {
        (self.stage.prepare)(&mut self.appliance, &self.asked);
    }

    /// One run; for how many names it came to what it should.
    pub fn run(&mut self) -> usize {
        (self.stage.run)(&mut self.appliance, &self.asked)
    }

    /// Whether a run was all that it should be.
    ///
    /// # Errors
    /// For some names it was not.
    pub fn check(&self, done: usize) -> Result<(), Failure> {
        let (stage, operations) = (self.stage, self.operations());
        if done != operations || operations == 0 {
            let other = operations - done;
            return Err(format!("stage `{}`: {other} of {operations} names came to something else", stage.name).into());
        }
        Ok(())
    }
}
