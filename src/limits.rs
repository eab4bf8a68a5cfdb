//! Every bound of the appliance, with its unit and its reason. The bounds of the store's format are in `sharding`.

use corewall_sharding::name::NAME_BYTES_MAX;

/// Bytes of a DNS header (RFC 1035 §4.1.1).
pub const HEADER_BYTES: usize = 12;
/// Bytes of an OPT record without options: root owner, type, payload size, extended flags, length (RFC 6891 §6.1.2).
pub const OPT_BYTES_MIN: usize = 11;

/// Bytes of the largest UDP message that we send or ask for: fits every path's MTU without fragments (RFC 9715).
pub const UDP_PAYLOAD_BYTES_MAX: usize = 1_232;
/// Bytes of a UDP answer to a client without EDNS (RFC 1035 §4.2.1), and the least that EDNS can say (RFC 6891 §6.2.3).
pub const UDP_PAYLOAD_BYTES_MIN: usize = 512;
/// Bytes that we read of one datagram: one more than the largest query taken, so that an oversize one is seen as such.
pub const DATAGRAM_BYTES_MAX: usize = 4_096;
/// Bytes of the largest message over TCP (RFC 1035 §4.2.2).
pub const MESSAGE_BYTES_MAX: usize = 65_535;
const _: () = assert!(HEADER_BYTES + NAME_BYTES_MAX + 4 + OPT_BYTES_MIN <= UDP_PAYLOAD_BYTES_MIN, "any question fits");

/// Records behind the question of one query. OPT and TSIG or SIG(0) are all that anyone sends; more is a FORMERR.
pub const QUERY_RECORDS_MAX: usize = 4;
/// EDNS options read in one query; more is a FORMERR, for each costs a step of a loop.
pub const EDNS_OPTIONS_MAX: usize = 16;
/// Bits of a client's IPv4 address that an upstream may be told: RFC 7871 §11.1 advises no more than this.
pub const NETWORK_V4_BITS_MAX: u8 = 24;
/// The same for IPv6.
pub const NETWORK_V6_BITS_MAX: u8 = 56;
/// Client networks on whose behalf one question is in flight to one upstream group at a time. Each is another message that a
/// forged answer could hit, so that many of them would make guessing an id easy (birthday attack, RFC 5452 §5, RFC 7871 §11.2).
pub const UPSTREAM_NETWORKS_MAX: usize = 8;
/// Seconds that one client cookie is used towards an upstream (RFC 7873 §7.1 advises to change secrets within 26 hours).
pub const CLIENT_COOKIE_S_MAX: u32 = 86_400;
/// Seconds for which it is remembered that an upstream server does not keep letter case, sends no cookies, or does not take
/// EDNS or an option: so long nothing is tried that costs it another message, or us the protection.
pub const PEER_HABIT_S: u32 = 3_600;
/// Answers of one server without its cookie, or in other letter case than asked, that could not be confirmed over TCP, one
/// after the other, from which on it is believed: a server without TCP would otherwise never be of use again.
pub const PEER_DOUBTS_MAX: u8 = 3;
/// Bytes of EXTRA-TEXT in an Extended DNS Error: longer ones are cut at build and start (RFC 8914 §2 leaves it to us).
pub const EDE_TEXT_BYTES_MAX: usize = 120;

/// Records in one upstream answer; a larger one is treated as malformed.
pub const ANSWER_RECORDS_MAX: usize = 1_024;
/// Octets of names and RDATA in one answer while it is being judged, names uncompressed: half as much again as the largest
/// message, for compression saves more than a third only in answers that nobody sends.
pub const ANSWER_BYTES_MAX: usize = 98_304;
/// Links of CNAME and alias chains together (CAMP: amplification of work).
pub const CHAIN_LINKS_MAX: usize = 8;
/// Upstream sends for one client's question, chains, retries and TCP included (CAMP).
pub const UPSTREAM_SENDS_MAX: u8 = 4;

/// Queries of one worker that wait at a time: an upstream that falls silent for 100 ms keeps 8,000 waiting at 80,000 a second.
/// Each takes some 3 KB; past it new ones are refused and counted.
pub const QUERIES_WAITING_MAX: usize = 8_192;
/// Queries of one client (an IPv4 address, an IPv6 /64) that wait at a time on one worker: a quarter of all places, so
/// that a resolver or a NAT with many users behind it is served, and no single client starves the others (DNSBomb).
pub const CLIENT_QUERIES_WAITING_MAX: usize = QUERIES_WAITING_MAX / 4;
/// Counters that clients share by hash: so many that few busy clients meet, 128 KiB a worker.
pub const QUOTA_BUCKETS: usize = 65_536;
/// Upstream exchanges of one worker in flight at a time.
pub const EXCHANGES_MAX: usize = 4_096;
/// Clients that wait for one exchange; an equal question past it is refused with SERVFAIL.
pub const EXCHANGE_CLIENTS_MAX: u16 = 1_024;
/// Microseconds after which an upstream answer is dropped whatever the timers say (DNSBomb, CVE-2024-33655).
pub const UPSTREAM_ANSWER_US_MAX: u64 = 1_900_000;

/// Upstream answers of one worker that are kept while the store is read for a name in their chain, 64 KiB each at most:
/// at 10 ms a read, 6,400 of them a second. Clients of one question share theirs.
pub const ANSWERS_KEPT_MAX: usize = 64;
/// The part of the machine's memory that the store may be locked in (`store_in_memory = "auto"`): what is locked cannot be had back by
/// anybody, and filters, caches and the next build need memory as well.
pub const STORE_IN_MEMORY_PART: u64 = 2;
/// Milliseconds between two looks whether the generation before has been let go of, so that the next one may be locked in memory.
pub const STORE_IN_MEMORY_ROOM_MS: u64 = 200;
/// Lookups that one worker has read at a time by its reader threads: more would be too late, at 10 ms a read and
/// two threads after 2.5 s. Equal ones count once.
pub const STORE_READS_MAX: usize = 512;
/// Queries that wait for one of these lookups, or have waited for it in vain while it still is being read.
pub const STORE_READ_WAITERS_MAX: usize = EXCHANGE_CLIENTS_MAX as usize;
/// Reader threads of one worker that may be configured: what a fast disk serves at a time.
pub const STORE_READERS_MAX: usize = 64;
/// Milliseconds that a query may be configured to wait for the store.
pub const STORE_WAIT_MS_MAX: u64 = 10_000;

/// Upstream groups of a configuration: an installation has a handful.
pub const UPSTREAM_GROUPS_MAX: usize = 64;
/// Bytes of a group's name, which is shown in logs and metrics.
pub const UPSTREAM_NAME_BYTES_MAX: usize = 32;
/// `[[forward]]` entries of a configuration: networks with thousands of zones have them as a list of rules.
pub const FORWARDS_MAX: usize = 1_024;
/// Zones of one of them.
pub const FORWARD_ZONES_MAX: usize = 1_024;

/// Sets of upstream servers that the rules of a generation may name: a quarter of the classes of rules that there may be, so
/// that a list of servers leaves room for other lists.
pub const RULE_SETS_MAX: usize = 1 << 18;
const _: () = assert!(4 * RULE_SETS_MAX <= corewall_sharding::build::CLASSES_MAX, "each set is a class at least");
/// Upstream servers that one worker knows at a time because rules name them. Those of the configuration do not count.
pub const RULE_SERVERS_MAX: usize = 4_096;
/// Sets of upstream servers that one worker knows at a time because rules name them: each is a group of its own.
pub const RULE_GROUPS_MAX: usize = 4_096;
/// Microseconds without a question after which a rule's group is dropped: what is asked now and then is not made anew, and
/// what a generation named long ago is gone.
pub const UPSTREAM_IDLE_US: u64 = 600_000_000;
/// The same when there is no room for another group: no answer to the last question can be on its way.
pub const UPSTREAM_IDLE_US_MIN: u64 = 2_000_000;
const _: () = assert!(UPSTREAM_IDLE_US_MIN > UPSTREAM_ANSWER_US_MAX, "what is dropped has no question in flight");

/// Microseconds that any server is waited for at least before the next one is asked: what a busy resolver may take however
/// near it is.
pub const UPSTREAM_RTO_US_MIN: u64 = 50_000;
/// The same where nobody else can be asked: asking again then only helps when a datagram was lost, and an upstream that has to
/// ask others first is often slower than its usual answer from the cache.
pub const UPSTREAM_ALONE_US_MIN: u64 = 250_000;
/// Microseconds between two tries whether a server is back that has left a question without an answer: a lost packet costs a
/// server little of its share, and four questions a second that are asked twice are no load.
pub const UPSTREAM_SUSPECT_US: u64 = 250_000;
/// Time-outs in a row after which a server is down, those of questions that were asked together being one. With the
/// doubling of the time-out they are at least seven times what the server usually takes: no longer a lost packet.
pub const UPSTREAM_TIMEOUTS_IN_A_ROW: u8 = 3;
/// Refusals in a row (ICMP, reset) after which a server is down. They say for certain that nobody listens now; one alone may
/// be that of a server which is being restarted.
pub const UPSTREAM_REFUSALS_IN_A_ROW: u8 = 2;
/// Microseconds until a server that is down is probed for the first time.
pub const UPSTREAM_BACK_OFF_US_MIN: u64 = 1_000_000;
/// Microseconds between two probes at most: so long a server that is back may stay unused.
pub const UPSTREAM_BACK_OFF_US_MAX: u64 = 60_000_000;
/// Microseconds after the last question to its group for which a server that is down is probed: nobody waits for it then.
pub const UPSTREAM_PROBE_US_MAX: u64 = 60_000_000;
/// Microseconds after which the strategies that choose by round-trip time measure a server anew.
pub const UPSTREAM_EXPLORE_US: u64 = 10_000_000;
/// Exchanges of one worker in flight to a group all of whose servers are down: enough to notice that one is back, too few
/// for a storm of retries (RFC 9520 §3.1).
pub const UPSTREAM_DOWN_EXCHANGES_MAX: u32 = 64;
/// Sends whose exchange has ended by another one's answer and whose own answer is still measured.
pub const UPSTREAM_STRAYS_MAX: usize = 64;
/// Servers that `parallel` may ask at once: one send is left for TCP.
pub const UPSTREAM_PARALLEL_MAX: u8 = UPSTREAM_SENDS_MAX - 1;
/// Milliseconds until a hedge at least: under it, every question would be asked twice.
pub const UPSTREAM_HEDGE_MS_MIN: u64 = 5;
/// Servers of one upstream group.
pub const GROUP_SERVERS_MAX: usize = 16;
/// Sockets (source ports) of one worker for each upstream server.
pub const SERVER_SOCKETS: usize = 16;
const _: () = assert!(SERVER_SOCKETS > UPSTREAM_SENDS_MAX as usize, "a question asked again has another port");

/// Patterns that one scan may report. More means that the lists hold next to nothing else for this name: the scan then
/// counts as failed, for the one that was left out might be the one that decides.
pub const MATCHES_MAX: usize = 1_024;

/// Bytes of one regular expression; those of real lists stay below 2,000.
pub const PATTERN_BYTES_MAX: usize = 8_192;
/// Groups inside groups of an expression for which an example is made up: that recursion takes stack.
pub const PATTERN_NESTING_MAX: u32 = 64;
/// Bytes of the example that a pattern is tested with.
pub const PATTERN_EXAMPLE_BYTES_MAX: usize = 255;
/// Steps back that confirming one candidate may take, some 10 ns each; past it the name counts as not readable.
pub const PATTERN_STEPS_MAX: usize = 10_000;
/// Microseconds of CPU time that confirming all candidates of one name may take: ten that each take all their steps. Past it
/// the name counts as not readable, for a name made to be a candidate of many patterns would hold up its core.
pub const PATTERN_CONFIRM_US_MAX: u64 = 1_000;
/// Bytes of the compiled form of one confirming expression.
pub const PATTERN_PROGRAM_BYTES_MAX: usize = 1 << 20;
/// Patterns that the engine may call too large when all are compiled together, each costing another attempt.
pub const PATTERNS_TOO_LARGE_MAX: usize = 16;
/// Bytes of address space of the process that compiles patterns: 10,000 of some size take about 1 GiB.
pub const PATTERN_COMPILE_BYTES_MAX: u64 = 4 << 30;
/// Seconds of CPU time of the process that compiles patterns: 10,000 of some size take a minute.
pub const PATTERN_COMPILE_CPU_S_MAX: u64 = 300;
/// Seconds that all attempts of one build at compiling its patterns may take together, a third each for the first one, for
/// the search for those to blame, and for what is left of them: the nightly build of a bad list is still there in the morning.
pub const PATTERN_COMPILE_S_MAX: u64 = 1_800;
/// Attempts of that search: one bad pattern among 10,000 is found by some 30.
pub const PATTERN_SEARCH_ATTEMPTS_MAX: usize = 256;
/// Attempts at what is left: each halves the part of them that is left out though it would fit.
pub const PATTERN_FIT_ATTEMPTS_MAX: usize = 4;

/// Bytes of one chunk of the response cache; an entry takes a chain of them.
pub const CACHE_CHUNK_BYTES: usize = 128;
/// Bytes of the largest answer kept in the cache.
pub const CACHE_ENTRY_BYTES_MAX: usize = 16_384;
/// Records in an answer kept in the cache: each has a TTL to count down.
pub const CACHE_ENTRY_RECORDS_MAX: usize = 256;
/// Entries that one eviction from the cache looks at: in a cache whose entries are nearly all in use, the search for one
/// that is not would otherwise hold up a query for as long as the cache is large.
pub const CACHE_EVICTION_STEPS_MAX: usize = 64;
/// Answers of one worker that are saved at a stop, the most used first: some 10 MB, written and read in a fraction of a second.
pub const SAVED_ENTRIES_MAX: usize = 65_536;
/// Bytes of a file of saved answers that is read: more than the entries above take was not written by us.
pub const SAVED_BYTES_MAX: u64 = 1 << 30;
/// Places of the cache that one slice of a flush looks at: some 100 us.
pub const CACHE_FLUSH_STEP: usize = 4_096;
/// Hits from which on an answer counts as popular, and is asked for again before it ends.
pub const PREFETCH_HITS_MIN: u8 = 2;
/// Seconds of TTL below which an answer is not asked for before it ends: its last tenth would be over at once.
pub const PREFETCH_TTL_S_MIN: u32 = 10;
/// Seconds after which an attempt to renew an answer that nobody waits for counts as lost.
pub const REFRESH_S_MAX: u32 = 3;
const _: () = assert!(REFRESH_S_MAX as u64 * 1_000_000 > UPSTREAM_ANSWER_US_MAX, "or two would be under way");
/// Queries of one worker under way to renew an answer and for no client: a sixteenth of the places for queries and an eighth of
/// those for exchanges, so that clients are never kept out.
pub const REFRESHES_MAX: usize = 512;
const _: () = assert!(REFRESHES_MAX * 8 <= EXCHANGES_MAX && REFRESHES_MAX * 16 <= QUERIES_WAITING_MAX, "clients first");
/// Moments at which a waiting client is served an expired answer instead, those of clients that have been answered included
/// until they are taken out.
pub const CLIENT_TIMERS_MAX: usize = 2 * (QUERIES_WAITING_MAX + 1);
/// Seconds past its end that an answer is kept at most for when the upstreams fail (RFC 8767 §5 suggests 1 to 3 days).
pub const STALE_WINDOW_S_MAX: u32 = 7 * 86_400;
/// Milliseconds that a client waits at most before it gets an expired answer: later the exchange is over anyway.
pub const STALE_CLIENT_TIMEOUT_MS_MAX: u64 = UPSTREAM_ANSWER_US_MAX / 1_000;
/// Seconds that clients may keep a stale answer at most.
pub const STALE_TTL_S_MAX: u32 = 300;
/// Seconds that an answer may be cached at most (RFC 8767 §4 advises a week; a day bounds what a mistake costs).
pub const TTL_S_MAX: u32 = 86_400;

/// Cores that a configuration may name: more than any machine has, so that a slip of the finger is seen.
pub const CORES_MAX: usize = 1_024;
/// Interfaces upon interfaces (a VLAN on a bond on a card) that are looked through for the one which receives: more than are
/// ever built.
pub const INTERFACE_LAYERS_MAX: usize = 8;
/// Labels of a name by which it is steered to a worker: each is ten steps of a program that runs for every packet. What is behind
/// them is left out, so that reverse names of IPv6 go by their address alone.
pub const STEERING_LABELS_MAX: usize = 32;
/// Words of four octets of a name by which it is steered to a worker, beside its last four octets: nearly all names are shorter.
pub const STEERING_WORDS_MAX: usize = 32;
/// Listen addresses of a configuration: each is a UDP and a TCP socket on every core.
pub const LISTEN_ADDRESSES_MAX: usize = 16;
/// Milliseconds until the next upstream server is tried: under 10 no server on another network would be in time.
pub const UPSTREAM_TIMEOUT_MS_MIN: u64 = 10;
/// Milliseconds until the next upstream server is tried: later answers would be dropped anyway.
pub const UPSTREAM_TIMEOUT_MS_MAX: u64 = UPSTREAM_ANSWER_US_MAX / 1_000;
/// Seconds that a failure to resolve is cached at least (RFC 9520 §3.2).
pub const FAILURE_TTL_S_MIN: u32 = 1;
/// Seconds that a failure to resolve is cached at most (RFC 9520 §3.2).
pub const FAILURE_TTL_S_MAX: u32 = 300;
/// Bytes of a worker's cache at least: a few entries of the largest size.
pub const CACHE_BYTES_MIN: usize = 64 << 10;
/// Bytes of a worker's cache at most: chunks are numbered by 32 bits.
pub const CACHE_BYTES_MAX: usize = 256 << 30;
const _: () = assert!(CACHE_BYTES_MIN >= 2 * CACHE_ENTRY_BYTES_MAX, "the largest entry fits the smallest cache");
const _: () = assert!(CACHE_BYTES_MAX / CACHE_CHUNK_BYTES < u32::MAX as usize, "a chunk's number is a u32");

/// Hosts files of a configuration.
pub const HOSTS_FILES_MAX: usize = 16;
/// Bytes of one hosts file, unpacked: what is larger is a block list.
pub const HOSTS_FILE_BYTES_MAX: u64 = 16 << 20;
/// Names in one hosts file, each some 200 bytes of memory for its records: more hosts than one network has.
pub const HOSTS_NAMES_MAX: usize = 131_072;
/// Lines of one hosts file that are told when they cannot be read; the others are counted.
pub const HOSTS_REFUSED_SHOWN_MAX: usize = 20;
/// Names whose addresses may be private, in a configuration.
pub const REBINDING_EXCEPTIONS_MAX: usize = 4_096;
/// Bytes of what a server tells of itself: one character-string (RFC 1035 §3.3).
pub const CHAOS_TEXT_BYTES_MAX: usize = 255;

/// Policies in a configuration.
pub const POLICIES_MAX: usize = 256;
/// Lists in a generation.
pub const LISTS_MAX: usize = 4_096;

/// Bad filters of one generation that are told one by one: a folder without any has as many as shards.
pub const FILTERS_SAID_MAX: usize = 16;
/// Shards of one generation that cannot be had in memory and are told one by one, likewise.
pub const SHARDS_SAID_MAX: usize = 16;
/// Lists that live rules may name beside those of the generation: their numbers must stay below those of failures' texts.
pub const LIVE_LISTS_MAX: usize = 1_024;
/// Live rules that may differ in more than their names: a new one costs a copy of them all.
pub const LIVE_CLASSES_MAX: usize = 16_384;
/// Live entries on one name: a question for it looks at each of them.
pub const LIVE_OF_NAME_MAX: usize = 256;
/// Live patterns: they are compiled anew with each change to them, in well under a second.
pub const LIVE_PATTERNS_MAX: usize = 256;
/// Live rules on addresses: they are sorted anew with each change to them, in some milliseconds.
pub const LIVE_ADDRESSES_MAX: usize = 16_384;
/// Live address rewrites, for the same reason.
pub const LIVE_REWRITES_MAX: usize = 16_384;
/// Entries of the overlay that are taken in at a time when a generation is opened: some megabytes.
pub const LIVE_UPDATE_ENTRIES_MAX: usize = 4_096;
/// Names of the last changes to live rules that each worker remembers, so that cached answers to other names need not be judged
/// again: a minute's worth at one change a second.
pub const LIVE_CHANGES_KEPT: usize = 64;

/// Generations that a store keeps, the current one included: the others are to roll back to.
pub const GENERATIONS_KEPT: usize = 3;
/// Names asked for most that are counted by each worker, 265 bytes each, and kept in the file.
pub const TOP_NAMES_MAX: usize = 100_000;
/// Bytes of the file of these names that are read: each with the longest name, every octet of it escaped, and its count.
pub const TOP_NAMES_FILE_BYTES_MAX: u64 = (TOP_NAMES_MAX * (4 * 255 + 21)) as u64;
/// Seconds between two savings of that file: what a crash forgets.
pub const TOP_NAMES_SAVE_S: u64 = 300;
/// Milliseconds that a worker is given to tell its names.
pub const TOP_NAMES_ORDER_MS_MAX: u64 = 2_000;
/// Refused lines of one list that a build's report shows.
pub const REFUSED_SHOWN_MAX: usize = 20;
/// Bytes of the file of refused lines: a list in the wrong format has nothing else, and is told by its first ones.
pub const REFUSED_FILE_BYTES_MAX: usize = 64 << 20;
/// Bytes of refused lines that one part of a list keeps before it asks whether there is room for more.
pub const REFUSED_ASK_BYTES: usize = 1 << 20;

/// Bytes of one part of a list that is read in parts: some 200,000 names, which take 40 ms, so that a list of any size is
/// spread over all cores, and asking for the next part costs nothing beside reading it.
pub const LIST_PART_BYTES: usize = 4 << 20;
/// Threads that a build may be told to use.
pub const BUILD_THREADS_MAX: usize = 256;
/// Rules that one thread reads between two words about the progress.
pub const BUILD_PROGRESS_RULES: u64 = 65_536;
/// Milliseconds between two looks at the progress of those who read.
pub const BUILD_PROGRESS_MS: u64 = 100;
/// Bytes of memory that a build may be told to use: it works with less and less speed, and below this not at all.
pub const BUILD_MEMORY_BYTES_MIN: u64 = 64 << 20;
/// The same at most: more than any machine has.
pub const BUILD_MEMORY_BYTES_MAX: u64 = 1 << 44;
/// Milliseconds that a build has to end by itself after SIGINT or SIGTERM. What it is writing then is never published, and a
/// build that goes on leaves out what is not whole.
pub const BUILD_STOP_MS: u64 = 1_000;

/// Bytes that a compressed database is unpacked to: 16 GiB are some 200 million rows, and more is no list of names.
pub const DATABASE_UNPACKED_BYTES_MAX: u64 = 16 << 30;
/// The same for each byte of the compressed file: tables of names shrink to a third or a tenth. What shrinks to less was made
/// to fill the disk.
pub const DATABASE_UNPACKED_RATIO_MAX: u64 = 100;
/// The same whatever the ratio: nearly empty databases shrink to nothing, and so little harms nobody.
pub const DATABASE_UNPACKED_BYTES_FREE: u64 = 64 << 20;
const _: () =
    assert!(DATABASE_UNPACKED_BYTES_FREE < DATABASE_UNPACKED_BYTES_MAX, "the ratio counts for most databases");

/// Datagrams taken from or given to the kernel by one call: gains flatten between 8 and 32.
pub const BATCH_DATAGRAMS: usize = 32;

/// TCP connections that a worker may be configured to have: each is a descriptor and some 2 KB.
pub const TCP_CONNECTIONS_MAX: usize = 65_536;
/// Milliseconds that a TCP connection may be configured to stay without a query, at least: its client's next question must
/// have time to come.
pub const TCP_IDLE_MS_MIN: u64 = 1_000;
/// Milliseconds that a TCP connection may be configured to stay without a query, at most: an hour.
pub const TCP_IDLE_MS_MAX: u64 = 3_600_000;
const _: () = assert!(TCP_IDLE_MS_MAX / 100 <= u16::MAX as u64, "edns-tcp-keepalive can say it");
/// Queries of one TCP connection that may be configured to wait for their answers at a time.
pub const TCP_PIPELINE_MAX: usize = CLIENT_QUERIES_WAITING_MAX;
/// Milliseconds of a TCP connection's life that may be configured: a day.
pub const TCP_LIFETIME_MS_MAX: u64 = 86_400_000;
/// Milliseconds from the first octet of a message over TCP to its last: a query has a few hundred of them, and who sends them
/// one by one means to hold the connection.
pub const TCP_MESSAGE_MS_MAX: u64 = 5_000;
/// Connections looked at for one that is idle and makes room for a newcomer.
pub const TCP_DISPLACE_STEPS_MAX: usize = 512;
/// Connections accepted in a row before the worker's other tasks have their turn.
pub const TCP_ACCEPTS_IN_A_ROW_MAX: usize = 16;

/// Workers, and with them cores, of one process.
pub const WORKERS_MAX: usize = 256;
/// Bytes asked of the kernel for the buffers of a UDP socket: some 10,000 queries, a burst of 10 ms at a million a second.
/// `net.core.rmem_max` may allow less.
pub const UDP_RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Microseconds that a worker looks for the next batch before it sleeps, see `serve::wait::Rhythm`: what a sleep costs. From
/// being woken to the first look at a socket 20 to 27 were measured on virtual machines; on hardware it is some 5.
pub const SPIN_US_MAX: u64 = 20;
/// Microseconds that one gap between batches counts as at most: with more, the mean would take long to fall after a silence.
pub const GAP_US_MAX: u64 = 1_000;
const _: () = assert!(SPIN_US_MAX < GAP_US_MAX, "a silence must be told from a gap");
/// Milliseconds that a worker waits for traffic in one system call, before it sleeps in its executor; also the most that
/// a timer of the worker may be late.
pub const NAP_MS_MAX: u16 = 1;
/// Microseconds until something is due, from which on a worker sleeps in its executor until then instead of napping: ten naps,
/// for such a sleep costs more than a nap and ends less exactly.
pub const PARK_US_MIN: u64 = 10_000 * NAP_MS_MAX as u64;
/// Sockets that one wait may report as ready; the others are reported by the next one.
pub const READY_SOCKETS_MAX: usize = 64;
/// Batches received from one socket before the other sockets are looked at.
pub const BATCHES_IN_A_ROW_MAX: usize = 8;

/// Source ports of one worker open towards upstreams, over all servers.
pub const UPSTREAM_PORTS_MAX: usize = 1_024;
/// Questions sent from one source port before another one is drawn, if there is a place for it: a port that somebody has found out is
/// soon of no use.
pub const UPSTREAM_PORT_SENDS_MAX: u32 = 256;
/// Draws of a source port before the socket is given up: nearly all ports would have to be taken.
pub const UPSTREAM_PORT_DRAWS_MAX: usize = 16;
/// Upstream answers taken from one port before the other sockets are looked at.
pub const UPSTREAM_ANSWERS_IN_A_ROW_MAX: usize = 16;
/// Upstream sends that failed at once and wait to be reported to `decide`.
pub const UPSTREAM_FAILURES_MAX: usize = EXCHANGES_MAX;

/// TCP connections of one worker with one upstream server: RFC 7766 §6.2.2 asks for few, and a second one is opened only when
/// as many questions as one takes are in flight.
pub const UPSTREAM_TCP_CONNECTIONS: usize = 4;
/// Questions in flight on one TCP connection with an upstream server. Servers read on at 20 to 100 (BIND, Knot Resolver).
pub const UPSTREAM_TCP_PIPELINE: usize = 64;
/// TCP connections of one worker with all upstream servers: a descriptor and some 10 KB each.
pub const UPSTREAM_TCP_CONNECTIONS_MAX: usize = 256;
/// Milliseconds that a TCP connection with an upstream server stays open unused: most servers close at 10 s or later.
pub const UPSTREAM_TCP_IDLE_MS: u64 = 10_000;
/// Bytes of questions that wait for one TCP connection to take them: more than as many as may be in flight have.
pub const UPSTREAM_TCP_OUTBOX_BYTES_MAX: usize = 65_536;
/// Messages on one TCP connection that answer nothing that was asked, until the connection is closed.
pub const UPSTREAM_TCP_UNEXPECTED_MAX: u32 = 16;
/// Milliseconds that a server which closes after one answer is given a connection for each question.
pub const UPSTREAM_TCP_ONE_SHOT_MS: u64 = 60_000;
/// Connections with such a server at a time.
pub const UPSTREAM_TCP_ONE_SHOT_CONNECTIONS: usize = 32;
/// Bytes read at a time from an upstream server: an answer that UDP would not hold, whole.
pub const UPSTREAM_TCP_READ_BYTES: usize = 8_192;

/// Octets of answers taken from one upstream connection before the tasks of the clients that wait for them write: more at once
/// than [`TCP_OUTBOX_BYTES_MAX`] would cut off a client that reads as fast as it can.
pub const UPSTREAM_TCP_OCTETS_IN_A_ROW_MAX: usize = 16_384;
const _: () = assert!(UPSTREAM_TCP_OCTETS_IN_A_ROW_MAX + MESSAGE_BYTES_MAX < TCP_OUTBOX_BYTES_MAX, "all of it fits");

/// Bytes read at a time from a TCP client; most queries are far shorter.
pub const TCP_READ_BYTES: usize = 1_024;
/// Bytes that the kernel holds of replies to one TCP client: without a bound a client that does not read costs
/// 4 MiB and more of the kernel's memory (`net.ipv4.tcp_wmem`). At a round trip of 100 ms it still gets 600 KB/s.
pub const TCP_SEND_BUFFER_BYTES: usize = 65_536;
/// The same of queries: some hundred of them.
pub const TCP_RECEIVE_BUFFER_BYTES: usize = 16_384;
/// Bytes of replies that wait for one TCP client to read them. A client that lets more gather is cut off.
pub const TCP_OUTBOX_BYTES_MAX: usize = 2 * (2 + MESSAGE_BYTES_MAX);
const _: () = assert!(TCP_OUTBOX_BYTES_MAX >= 2 + MESSAGE_BYTES_MAX, "the largest reply fits");
/// Bytes of replies that wait, from which on no further query of that client is read.
pub const TCP_OUTBOX_BYTES_HIGH: usize = 16_384;
/// Queries of one TCP connection answered before the other connections are looked at.
pub const TCP_QUERIES_IN_A_ROW_MAX: usize = 16;

/// Events from signals, workers and the control socket that wait for the control thread: a worker has two to tell in its life,
/// a connection one at a time.
pub const CONTROL_EVENTS_MAX: usize = 4 * WORKERS_MAX;
/// Messages from the control thread that wait for one worker: a request of the control socket, a switch, a stop, and one more.
pub const ORDERS_MAX: usize = 4;
/// Connections of the control socket: a few operators and their monitoring; each is a thread that sleeps.
pub const CONTROL_CONNECTIONS_MAX: usize = 16;
/// Connections of the control socket that the kernel completes before they are accepted, for those who come during the start.
pub const CONTROL_BACKLOG: i32 = 64;
/// Bytes of one request on the control socket, its line end aside: some thousand rules, which wait for the disk once together.
pub const CONTROL_REQUEST_BYTES_MAX: usize = 262_144;
const _: () = assert!(CONTROL_REQUEST_BYTES_MAX >= 2 * 2 * PATTERN_BYTES_MAX, "any rule can be told");
/// Bytes of one answer on the control socket that a command reads: 256 workers and thousands of upstream servers take a tenth.
pub const CONTROL_ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Lines of one request that changes rules: each is a few microseconds of work while other changes wait.
pub const RULE_LINES_MAX: usize = 8_192;
/// Rules of one page of a list: an answer of some 300 KB.
pub const RULES_LISTED_MAX: usize = 1_000;
/// Entries that end, or are removed with their list, at a time: other changes come in between.
pub const RULES_LEAVING_MAX: usize = 10_000;
/// Changes that come in while a reload reads the store, and are made again when it is read: 4,000,000 numbers take some 100 MB.
pub const RULE_CHANGES_HELD_MAX: usize = 4_000_000;
/// Seconds after which the clock is looked at while a rule waits for its end: the clock may have been set.
pub const EXPIRY_LOOK_S_MAX: u64 = 30;
/// Seconds until ends are looked for again after that has failed.
pub const EXPIRY_RETRY_S: u64 = 10;
/// Milliseconds that a start waits for a `corewall rule` that is changing the live rules of its store.
pub const OVERLAY_FREE_MS_MAX: u64 = 2_000;
/// Milliseconds within which a request must have come whole; a connection that is silent for so long is closed.
pub const CONTROL_IDLE_MS_MAX: u64 = 30_000;
/// Milliseconds within which an answer must have been taken: somebody who does not read keeps no thread.
pub const CONTROL_WRITE_MS_MAX: u64 = 5_000;
/// Milliseconds within which every worker must have done what a request asks: a flush of the largest cache takes seconds.
pub const CONTROL_ORDER_MS_MAX: u64 = 30_000;
/// Milliseconds that a command waits for its answer: until all requests before it would have failed, were there two.
pub const CONTROL_CLIENT_MS_MAX: u64 = 60_000;
const _: () = assert!(CONTROL_CLIENT_MS_MAX > CONTROL_ORDER_MS_MAX, "what a worker did wrong is told");
const _: () = assert!(CONTROL_IDLE_MS_MAX > 2 * STOP_MS_MAX, "who asks for the end is there to see it");
/// Milliseconds that a start waits for an address that a server which has just ended may still have: up to 190 were seen.
pub const ADDRESS_FREE_MS_MAX: u64 = 2_000;
/// Milliseconds until all workers must serve; start-up gives up after it.
pub const START_MS_MAX: u64 = 30_000;
/// Milliseconds that a stopping worker waits for the upstream answers of the queries it has taken in.
pub const STOP_MS_MAX: u64 = 2_000;
const _: () = assert!(STOP_MS_MAX * 1_000 > UPSTREAM_ANSWER_US_MAX, "every query can end");

/// Milliseconds that a program which `corewall tune` asks may take: `zfs` on a suspended pool would wait for ever.
pub const PROGRAM_MS_MAX: u64 = 10_000;
/// Bytes of its output that are read: `ethtool -x` of the largest table takes some 20 KB.
pub const PROGRAM_OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// Bytes of one file of `/proc` or `/sys` that are read: `/proc/interrupts` of 512 cores takes some MB.
pub const MACHINE_FILE_BYTES_MAX: u64 = 16 << 20;
