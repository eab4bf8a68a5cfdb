//! Carries requests out: by orders to the workers, or as an errand for the control thread.
//!
//! Invariant: an answer is given when every worker has done what was asked, never before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::time::Instant;

use corewall_sharding::direct::DirectShards;
use corewall_sharding::filters::{FilterCounts, Filters};

use super::conversation::CarryOut;
use super::protocol::{
    Answer, CacheStats, DirectStatus, FilterStatus, FlushWhat, Flushed, Refusal, RefusalKind, Reloaded, Request,
    Status, Stopping, UpstreamServer, UpstreamServers, WorkerCache, WorkerFlushed, WorkerServer, WorkerStatus,
};
use super::rules::LiveRules;
use super::workers::{Workers, stopping};
use crate::decide::cache::Flush;
use crate::serve::filters::huge_page_bytes;
use crate::serve::metrics::{ServerReport, Totals, WorkerReport};
use crate::serve::reload::Order;

/// What only the control thread itself can do.
pub enum Errand {
    /// Read configuration and store again, and say what has become of it.
    Reload(SyncSender<Result<Reloaded, String>>),
    /// End the server.
    Stop,
}

/// Carries requests out.
pub struct Commands {
    /// The workers.
    pub workers: Arc<Workers>,
    /// What is changed by hand.
    pub rules: Arc<LiveRules>,
    /// Where they listen.
    pub listen: Vec<SocketAddr>,
    /// When they had all begun to serve.
    pub ready_since: Instant,
    /// Hands an errand to the control thread; false when that takes no more.
    pub send: Box<dyn Fn(Errand) -> bool + Send + Sync>,
}

impl CarryOut for Commands {
    fn carry_out(&self, request: Request) -> Result<Answer, Refusal> {
        match request {
            Request::Status {} => self.status().map(Answer::Status),
            Request::CacheStats {} => self.cache_stats().map(Answer::CacheStats),
            Request::CacheFlush { what } => self.flush(what).map(Answer::Flushed),
            Request::Upstreams {} => self.upstreams().map(Answer::UpstreamServers),
            Request::RuleAdd(rules) => self.rules.add(&self.workers, &rules).map(Answer::RulesChanged),
            Request::RuleRemove(rules) => self.rules.remove(&self.workers, &rules).map(Answer::RulesChanged),
            Request::RuleRestore(rules) => self.rules.restore(&self.workers, &rules).map(Answer::RulesChanged),
            Request::RuleRemoveList { list } => self.rules.remove_list(&self.workers, &list).map(Answer::RulesChanged),
            Request::RuleList(which) => self.rules.list(&which).map(Answer::RulesListed),
            Request::Reload {} => self.reload().map(Answer::Reloaded),
            Request::Stop {} => Ok(Answer::Stopping(Stopping { pid: process::id() })),
        }
    }

    fn follow_up(&self, answer: &Answer) {
        if let Answer::Stopping(_) = answer {
            // It takes no more errands because it is stopping.
            let _ = self.send_errand(Errand::Stop);
        }
    }
}

impl Commands {
    fn status(&self) -> Result<Status, Refusal> {
        let reports = self.reports()?;
        let worker = |(core, report): &(usize, WorkerReport)| WorkerStatus {
            core: *core,
            generation: report.generation,
            rules: report.rules,
            live_rules: report.live.rules,
            live_voids: report.live.voids,
            live_seq: report.live.last_seq,
            queries_waiting: report.queries_waiting,
            tcp_connections: report.tcp_connections,
            udp_received: report.totals.value("udp_received"),
            tcp_received: report.totals.value("tcp_received"),
            udp_sent: report.totals.value("udp_sent"),
            udp_batches: report.totals.value("udp_batches"),
            cache: report.cache,
        };
        Ok(Status {
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            uptime_s: self.ready_since.elapsed().as_secs(),
            listen: self.listen.clone(),
            filters: reports.first().map(|(_, report)| filter_status(&report.filters)).unwrap_or_default(),
            shards_in_memory: reports.first().map(|(_, report)| direct_status(&report.direct)).unwrap_or_default(),
            store: reports.iter().find_map(|(_, report)| report.store.clone()),
            workers: reports.iter().map(worker).collect(),
            counters: totals(&reports).each().map(|(name, value)| (name.to_owned(), value)).collect(),
        })
    }

    fn cache_stats(&self) -> Result<CacheStats, Refusal> {
        let reports = self.reports()?;
        let of_cache = |(name, value): (&str, u64)| name.starts_with("cache_").then(|| (name.to_owned(), value));
        Ok(CacheStats {
            workers: reports.iter().map(|&(core, ref report)| WorkerCache { core, cache: report.cache }).collect(),
            counters: totals(&reports).each().filter_map(of_cache).collect(),
        })
    }

    fn flush(&self, what: FlushWhat) -> Result<Flushed, Refusal> {
        let what = Arc::new(match what {
            FlushWhat::Name(name) => Flush::Name(name),
            FlushWhat::Subtree(name) => Flush::Subtree(name),
            FlushWhat::All => Flush::All,
        });
        let removed = self.workers.order_all(|done| Order::Flush { what: what.clone(), done })?;
        let workers: Vec<WorkerFlushed> =
            removed.into_iter().map(|(core, removed)| WorkerFlushed { core, removed }).collect();
        Ok(Flushed { removed: workers.iter().map(|worker| worker.removed).sum(), workers })
    }

    fn upstreams(&self) -> Result<UpstreamServers, Refusal> {
        let mut servers: BTreeMap<SocketAddr, UpstreamServer> = BTreeMap::new();
        for (core, reports) in self.workers.order_all(|done| Order::Servers { done })? {
            for ServerReport { address, groups, found } in reports {
                let empty = UpstreamServer { address, groups: BTreeSet::new(), workers: Vec::new() };
                let server = servers.entry(address).or_insert(empty);
                server.groups.extend(groups);
                server.workers.push(WorkerServer { core, ..found });
            }
        }
        Ok(UpstreamServers { servers: servers.into_values().collect() })
    }

    fn reload(&self) -> Result<Reloaded, Refusal> {
        let (done, is_done) = mpsc::sync_channel(1);
        self.send_errand(Errand::Reload(done))?;
        // Reading a store of billions of rules takes as long as it takes. The control thread lets go of `done` when it ends.
        match is_done.recv() {
            Ok(outcome) => outcome.map_err(|reason| Refusal::new(RefusalKind::Failed, reason)),
            Err(_) => Err(stopping()),
        }
    }

    fn send_errand(&self, errand: Errand) -> Result<(), Refusal> {
        if (self.send)(errand) { Ok(()) } else { Err(stopping()) }
    }

    fn reports(&self) -> Result<Vec<(usize, WorkerReport)>, Refusal> {
        self.workers.order_all(|done| Order::Report { done })
    }
}

fn direct_status(direct: &DirectShards) -> DirectStatus {
    DirectStatus { shards: direct.count(), of: direct.shard_count(), bytes: direct.bytes(), why_not: direct.why_not() }
}

fn filter_status(filters: &Filters) -> FilterStatus {
    let FilterCounts { verified, unverified, rebuilt, missing } = filters.counts();
    let memory_bytes = filters.bytes_in_memory();
    FilterStatus {
        verified,
        unverified,
        rebuilt,
        missing,
        bits: filters.bits(),
        file_bytes: filters.file_bytes(),
        copies: filters.copies().map_or(0, |copies| copies as u64),
        memory_bytes,
        // The kernel walks all of the process's memory for it.
        huge_page_bytes: if memory_bytes > 0 { huge_page_bytes().unwrap_or(0) } else { 0 },
    }
}

fn totals(reports: &[(usize, WorkerReport)]) -> Totals {
    let mut totals = Totals::default();
    reports.iter().for_each(|(_, report)| totals.add(&report.totals));
    totals
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;
    use crate::serve::reload::{Commander, Orders, orders};

    /// Commands for workers on cores 4, 5, ..., and the workers' ends. The first gives the workers up when it is dropped.
    fn commands(workers: usize) -> (Arc<Vec<Commander>>, Commands, Vec<Orders>) {
        with_errands(workers, Box::new(|_| panic!("an errand")))
    }

    fn with_errands(
        workers: usize,
        send: Box<dyn Fn(Errand) -> bool + Send + Sync>,
    ) -> (Arc<Vec<Commander>>, Commands, Vec<Orders>) {
        let (commanders, orders): (Vec<_>, Vec<_>) = (4..4 + workers).map(|core| orders(core).unwrap()).unzip();
        let commanders = Arc::new(commanders);
        let commands = Commands {
            workers: Arc::new(Workers::new(Arc::downgrade(&commanders))),
            rules: Arc::default(),
            listen: Vec::new(),
            ready_since: Instant::now(),
            send,
        };
        (commanders, commands, orders)
    }

    /// A worker that says it has removed so many answers, once.
    fn obey(orders: Orders, removed: u64) {
        match orders.orders.recv() {
            Ok(Order::Flush { done, .. }) => done.send(removed).unwrap(),
            _ => panic!("another order"),
        }
    }

    const FLUSH: Request = Request::CacheFlush { what: FlushWhat::All };

    #[test]
    fn a_flush_is_done_when_every_worker_has_done_it() {
        let (_commanders, commands, orders) = commands(3);
        let workers: Vec<_> = orders.into_iter().zip(1..).map(|(it, n)| thread::spawn(move || obey(it, n))).collect();
        let Ok(Answer::Flushed(flushed)) = commands.carry_out(FLUSH) else { panic!("not flushed") };
        let parts: Vec<_> = flushed.workers.iter().map(|worker| (worker.core, worker.removed)).collect();
        assert_eq!((flushed.removed, parts), (6, vec![(4, 1), (5, 2), (6, 3)]));
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    }

    #[test]
    fn a_worker_that_takes_no_orders_is_named_and_one_that_ends_meanwhile_is_told() {
        let (commanders, commands, mut orders) = commands(2);
        let (second, first) = (orders.pop().unwrap(), orders.pop().unwrap());
        while commanders[1].order(Order::Stop) {}
        let first = thread::spawn(|| obey(first, 1));
        let refusal = commands.carry_out(FLUSH).unwrap_err();
        assert_eq!((refusal.kind, refusal.message.contains("core 5 takes no orders")), (RefusalKind::Failed, true));
        first.join().unwrap();
        drop(second);

        let (_commanders, commands, orders) = self::commands(1);
        let ends = thread::spawn(move || drop(orders.into_iter().next().map(|it| it.orders.recv())));
        assert_eq!(commands.carry_out(FLUSH).unwrap_err().kind, RefusalKind::Stopping);
        ends.join().unwrap();
    }

    #[test]
    fn errands_are_the_control_thread_s_and_a_server_that_is_stopping_says_so() {
        let has_stopped = Arc::new(AtomicBool::new(false));
        let stops = has_stopped.clone();
        let control_thread = Box::new(move |errand| match errand {
            Errand::Reload(done) => done.send(Err("no store".to_owned())).is_ok(),
            Errand::Stop => !stops.swap(true, Ordering::Relaxed),
        });
        let (commanders, commands, _orders) = with_errands(1, control_thread);
        let refusal = commands.carry_out(Request::Reload {}).unwrap_err();
        assert_eq!((refusal.kind, &*refusal.message), (RefusalKind::Failed, "no store"));
        assert!(!has_stopped.load(Ordering::Relaxed));
        let answer = commands.carry_out(Request::Stop {}).unwrap();
        assert!(!has_stopped.load(Ordering::Relaxed), "the answer comes first");
        commands.follow_up(&answer);
        assert!(has_stopped.load(Ordering::Relaxed));
        drop(commanders);
        assert_eq!(commands.carry_out(Request::Status {}).unwrap_err().kind, RefusalKind::Stopping);
    }
}
