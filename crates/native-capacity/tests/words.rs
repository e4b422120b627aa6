//! What `explain` says, word for word, and the names in JSON.

use native_capacity::{LimitedBy, Request, Tenancy, Tenant, Totals, Usage, available};

const NODE: Totals = Totals {
    cpu: 16,
    ram_gb: 32,
    disk_gb: Some(100),
    cpu_alter: 0,
    ram_alter: 0,
    cpu_overbook: 12,
    ram_overbook: 0,
    slots: Some(3),
    tenancy: Tenancy::Strict,
};
const TENANT: Tenant =
    Tenant { cpu: 14, ram_gb: 8, disk_gb: 30, multitenancy: true, cpu_overbook: true, ram_overbook: false };

fn usage(tenants: &[(&str, Tenant)]) -> Usage {
    let mut usage = Usage::new();
    for (name, tenant) in tenants {
        usage.add(name, *tenant).expect("a fresh name");
    }
    usage
}

fn first(totals: &Totals, usage: &Usage, request: &Request) -> String {
    available(totals, usage, request).explain.all()[0].to_string()
}

#[test]
fn every_limit_in_words() {
    let request = Request::from(TENANT);
    let two = usage(&[("fish-aaaaaa", TENANT), ("fish-bbbbbb", TENANT)]);
    assert_eq!(
        first(&NODE, &two, &request),
        "cpu: one more needs 14 threads, and 0 of 28 are free (16 of the host, 12 overbooked): 14 short. Held by \
         fish-aaaaaa (14) and fish-bbbbbb (14). It fits when fish-aaaaaa ends, or with a `cpu_overbook` of 26."
    );
    assert_eq!(
        first(&NODE, &two, &Request { cpu_overbook: false, ..request.clone() }),
        "cpu: one more needs 14 threads, and 0 of 16 are free: 14 short (28 in use already); the `cpu_overbook` of 12 \
         does not count, because the request does not tolerate it. Held by fish-aaaaaa (14) and fish-bbbbbb (14). It \
         fits when fish-aaaaaa and fish-bbbbbb end."
    );
    let intolerant = usage(&[("fish-aaaaaa", Tenant { cpu_overbook: false, ..TENANT })]);
    assert_eq!(
        first(&NODE, &intolerant, &request),
        "cpu: one more needs 14 threads, and 2 of 16 are free: 12 short; the `cpu_overbook` of 12 does not count, \
         because fish-aaaaaa does not tolerate it. Held by fish-aaaaaa (14). It fits when fish-aaaaaa ends."
    );
    assert_eq!(
        first(&NODE, &two, &Request { cpu: 0, ram_gb: 20, ..request.clone() }),
        "ram: one more needs 20 GB, and 16 of 32 are free: 4 short. Held by fish-aaaaaa (8) and fish-bbbbbb (8). It \
         fits when fish-aaaaaa ends."
    );
    assert_eq!(
        first(&NODE, &two, &Request { cpu: 0, disk_gb: 50, ..request.clone() }),
        "disk: one more needs 50 GB, and 40 of 100 are free: 10 short. Held by fish-aaaaaa (30) and fish-bbbbbb (30). \
         It fits when fish-aaaaaa ends, or with 10 GB more of free space."
    );
    assert_eq!(
        first(&Totals { slots: Some(2), ..NODE }, &two, &Request { cpu: 0, ..request.clone() }),
        "slots: 0 of 2 slots are free. Held by fish-aaaaaa (1) and fish-bbbbbb (1). One more fits with 3 `slots`."
    );
    assert_eq!(
        first(&NODE, &two, &Request { multitenancy: false, ..request.clone() }),
        "tenancy: the request tolerates no others, and fish-aaaaaa and fish-bbbbbb run here. It fits when fish-aaaaaa \
         and fish-bbbbbb end, or with `multitenancy: true` in the label."
    );
    let alone = usage(&[("fish-aaaaaa", Tenant { multitenancy: false, ..TENANT })]);
    assert_eq!(
        first(&NODE, &alone, &request),
        "tenancy: fish-aaaaaa tolerates no others on the node. It fits when fish-aaaaaa ends."
    );
    assert_eq!(
        first(&NODE, &Usage::new(), &Request { multitenancy: false, cpu: 1, ..request.clone() }),
        "tenancy: the request tolerates no others, so it runs once and alone. Set `multitenancy: true` in the label to \
         run more of it at a time."
    );
    assert_eq!(
        first(&NODE, &two, &Request { unmatched_filter: Some("OS:darwin".into()), ..request.clone() }),
        "node_filter: the label asks for `OS:darwin`, and no identifier of this node matches that. Run it on another \
         node, or change `node_filter` in the label or `node_identifiers` in the config."
    );
    assert_eq!(
        first(&Totals { cpu_overbook: 0, ..NODE }, &Usage::new(), &Request { cpu: 64, cpu_overbook: false, ..request }),
        "cpu: one more needs 64 threads, and 16 of 16 are free: 48 short. It fits on a node with 64 threads."
    );
}

#[test]
fn many_holders_are_cut() {
    let mut usage = Usage::new();
    for index in 0..50 {
        usage.add(&format!("fish-{index:06}"), Tenant { cpu: 1, ..TENANT }).unwrap();
    }
    let text = first(
        &Totals { cpu: 50, cpu_overbook: 0, slots: None, ram_gb: 10_000, disk_gb: None, ..NODE },
        &usage,
        &Request::from(TENANT),
    );
    assert!(text.contains("and 45 others") && text.len() < 400, "{text}");
}

#[test]
fn strict_and_lenient() {
    let alone = Tenant { multitenancy: false, cpu: 1, ..TENANT };
    let usage = usage(&[("fish-aaaaaa", alone)]);
    let request = Request::from(alone);
    let lenient = Totals { tenancy: Tenancy::Lenient, ..NODE };
    assert_eq!(available(&NODE, &usage, &request).limited_by, Some(LimitedBy::Tenancy));
    assert_eq!(available(&lenient, &usage, &request).count, 2);
    assert_eq!(available(&NODE, &Usage::new(), &request).count, 1);
    assert_eq!(available(&NODE, &usage, &Request::from(TENANT)).count, 0, "nothing joins it");
}

#[cfg(feature = "serde")]
#[test]
fn json() {
    let usage = usage(&[("fish-aaaaaa", TENANT)]);
    let request = Request { unmatched_filter: Some("x".into()), ..Request::from(TENANT) };
    let json = serde_json::to_value(available(&NODE, &usage, &request)).unwrap();
    assert_eq!((json["count"].as_u64(), json["limited_by"].as_str()), (Some(0), Some("node_filter")));
    assert_eq!(json["explain"][0]["limit"], "node_filter");
    for (limit, name) in [
        (LimitedBy::Cpu, "cpu"),
        (LimitedBy::Ram, "ram"),
        (LimitedBy::Disk, "disk"),
        (LimitedBy::Slots, "slots"),
        (LimitedBy::Tenancy, "tenancy"),
        (LimitedBy::NodeFilter, "node_filter"),
    ] {
        assert_eq!(serde_json::to_value(limit).unwrap(), name);
        assert_eq!(limit.to_string(), name);
    }
    let text = serde_json::to_string(&usage).unwrap();
    assert_eq!(serde_json::from_str::<Usage>(&text).unwrap(), usage);
    let file = r#"{"fish-aaaaaa": {"cpu": 14, "multitenancy": true}}"#;
    assert_eq!(serde_json::from_str::<Usage>(file).unwrap().cpu(), 14);
    let node: Totals = serde_json::from_str(r#"{"cpu": 16, "tenancy": "lenient"}"#).unwrap();
    assert_eq!((node.cpu, node.tenancy), (16, Tenancy::Lenient));
}
