//! Scenarios that are not passed, and why.

/// A reason, and the scenarios that it holds for with the step at which each differs.
type Verdict = (&'static str, &'static [(&'static str, u32)]);

/// In place of a step: the scenario says something that cannot be told in our format.
pub const NOT_TOLD: u32 = 0;

/// Why Corewall differs. `cargo test --test replay -- --ignored foreign/NAME` shows how.
const DIFFERS: [Verdict; 32] = [
    // What is not offered.
    (
        "addresses are not made up: DNS64 is not offered",
        &[("dns64_lookup", 30), ("dns64_respip_bypass", 11), ("rpz_clientip_passthru_dns64", 11)],
    ),
    (
        "answers are not validated: the upstream servers do that",
        &[
            ("serve_expired_client_timeout_val_insecure_delegation", 40),
            ("dns64_dnssec", 2),
            ("fwd_scrub_rrsig", 4),
            ("serve_expired_client_timeout_val_bogus", 10),
            ("serve_expired_val_bogus", 10),
            ("serve_expired_wildcard_swap_ad", 40),
        ],
    ),
    ("no zone is served or transferred: auth-zone is not offered", &[("iter_fwdstubauth", 4)]),
    ("policy zones are files: what follows a transfer differs", &[("rpz_axfr", 51)]),
    (
        "clients choose whole lists by policy: tags, views and zones for one client are not offered",
        &[
            ("local_acl_override", 4),
            ("local_acl_taglist", 2),
            ("local_acl_taglist_action", 2),
            ("local_cname", NOT_TOLD),
            ("rpz_cname_tag", 11),
            ("views", 2),
        ],
    ),
    (
        "no option of the operator's own is sent upstream: edns-client-string is not offered",
        &[("edns_attached_once_per_upstream", 20), ("edns_client_string", 20), ("edns_client_string_opcode", 20)],
    ),
    ("no server cookies are given to clients", &[("edns_downstream_cookies", NOT_TOLD)]),
    ("more than sixteen EDNS options are a format error, and NSID is not offered", &[("edns_nsid_repeat", 10)]),
    ("every group is cached: forward-no-cache is not offered", &[("dns64_fwd_nocache", 21), ("fwd_no_cache", 24)]),
    ("a cache of one byte cannot be configured", &[("fwd_lrudrop", 22)]),
    (
        "the window of stale answers is from their end: serve-expired-ttl-reset is not offered",
        &[("serve_expired_ttl_reset", 11)],
    ),
    // What a forwarder does otherwise.
    (
        "a time-out in a client's keepalive option is passed over: only its length is wrong (RFC 7828 §3.2.1)",
        &[("edns_keepalive", 10)],
    ),
    (
        "a question without RD is answered from what is known or refused: there is no referral to give",
        &[("serve_expired", 40), ("fwd_minimal", 34), ("ttl_max", 26)],
    ),
    ("a question without RD is not forwarded (RFC 1035 §4.1.1)", &[("cache_rd_rev", 2)]),
    ("a referral is no answer: the next server is asked", &[("cache_delegation", 2)]),
    ("the servers asked are resolvers: their chains are taken as complete", &[("rpz_val_block", 41)]),
    (
        "an error of an upstream server is SERVFAIL with an Extended DNS Error: REFUSED or FORMERR would speak of us",
        &[("cache_refused", 2), ("cache_transport_error", 11)],
    ),
    ("no other class than IN is forwarded", &[("cache_chaos", 2)]),
    ("no other opcode than QUERY is forwarded", &[("cache_notify", 2)]),
    // The cache.
    (
        "the TTL of a stale answer is the configured one, even where the answer's own was shorter",
        &[("serve_expired_reply_ttl", 60)],
    ),
    (
        "an answer is prefetched when two have asked for it since it came, not when one has",
        &[("dns64_prefetch_cache", 43)],
    ),
    (
        "answers are kept whole, so that nobody's record gets into another's answer",
        &[("rrset_use_cached", 12), ("ttl_msg", 36)],
    ),
    ("authority and additional records are not kept, and a TTL is a day at most", &[("cache_ttl_sections", 32)]),
    ("answers to questions with DO are kept apart", &[("cache_do_nsec", 11), ("cache_do_nsec3", 11)]),
    (
        "AD is always set upstream (RFC 6840 §5.7), so that one answer serves clients with it and without",
        &[("cache_ad_rev", 2), ("cache_do_q_nsec", 21), ("cache_do_q_rrsig", 21)],
    ),
    (
        "CD is not set upstream: one client must not turn validation off for others",
        &[("cache_cd", 2), ("cache_cd_rev", 11)],
    ),
    // Lists.
    (
        "NSDNAME and NSIP are of no use to a forwarder, which sees no name servers",
        &[
            ("rpz_cname_wild", 40),
            ("rpz_nsdname", 11),
            ("rpz_nsdname_override", 11),
            ("rpz_nsip", 11),
            ("rpz_nsip_override", 11),
            ("rpz_qtype_cname", 21),
        ],
    ),
    (
        "what blocks a CNAME's target answers for the asked name, without the chain",
        &[("rpz_signal_nxdomain_ra", 21), ("rpz_cached_cname", 40), ("rpz_cname_handle", 21)],
    ),
    (
        "in lists a loopback address says that a name is blocked, and how is the operator's choice",
        &[("rpz_ixfr", 17), ("rpz_passthru_clientip", 21)],
    ),
    (
        "of two CNAMEs at one name, which no zone may have, not the first counts; a wildcard is for all names under it",
        &[("rpz_qname", 11)],
    ),
    ("a name with a CNAME has no other data (RFC 2181 §10.1)", &[("local_cnameother", 20)]),
    ("local data is of class IN, and ANY is no type to have data of", &[("localdata", NOT_TOLD)]),
];

/// Where and why `scenario` is not passed, if it need not.
pub fn difference(scenario: &str) -> Option<(u32, &'static str)> {
    DIFFERS.iter().find_map(|(reason, scenarios)| {
        let (_, step) = scenarios.iter().find(|(name, _)| *name == scenario)?;
        Some((*step, *reason))
    })
}

/// All that need not be passed.
pub fn names() -> impl Iterator<Item = &'static str> {
    DIFFERS.iter().flat_map(|(_, scenarios)| scenarios.iter().map(|(name, _)| *name))
}
