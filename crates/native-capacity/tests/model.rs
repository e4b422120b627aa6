//! The answers against a naive model in 128-bit integers: random numbers of the whole range, and every combination of
//! a small one.

use native_capacity::{LedgerError, LimitedBy, Request, Tenancy, Tenant, Totals, Usage, available};
use proptest::prelude::*;

/// What design says, written down without a thought for speed.
fn model(totals: &Totals, tenants: &[Tenant], request: &Request) -> i128 {
    let unlimited = i128::from(u32::MAX);
    if request.unmatched_filter.is_some() {
        return 0;
    }
    let mut answer = unlimited;
    if totals.tenancy == Tenancy::Strict {
        if tenants.iter().any(|tenant| !tenant.multitenancy) {
            return 0;
        }
        if !request.multitenancy {
            answer = if tenants.is_empty() { 1 } else { return 0 };
        }
    }
    let pool = |total: i128, alter: i128, overbook: i128, used: i128, need: i128| {
        let size = (total + alter).max(0) + overbook;
        let free = (size - used).max(0);
        if need == 0 { unlimited } else { (free / need).min(unlimited) }
    };
    let cpu_tolerated = request.cpu_overbook && tenants.iter().all(|tenant| tenant.cpu_overbook);
    let ram_tolerated = request.ram_overbook && tenants.iter().all(|tenant| tenant.ram_overbook);
    answer = answer.min(pool(
        totals.cpu.into(),
        totals.cpu_alter.into(),
        if cpu_tolerated { totals.cpu_overbook.into() } else { 0 },
        tenants.iter().map(|tenant| i128::from(tenant.cpu)).sum(),
        request.cpu.into(),
    ));
    answer = answer.min(pool(
        totals.ram_gb.into(),
        totals.ram_alter.into(),
        if ram_tolerated { totals.ram_overbook.into() } else { 0 },
        tenants.iter().map(|tenant| i128::from(tenant.ram_gb)).sum(),
        request.ram_gb.into(),
    ));
    if let Some(disk) = totals.disk_gb {
        let used = tenants.iter().map(|tenant| i128::from(tenant.disk_gb)).sum();
        answer = answer.min(pool(disk.into(), 0, 0, used, request.disk_gb.into()));
    }
    if let Some(slots) = totals.slots {
        answer = answer.min((i128::from(slots) - tenants.len() as i128).max(0));
    }
    answer
}

fn booked(tenants: &[Tenant]) -> Usage {
    let mut usage = Usage::new();
    for (index, tenant) in tenants.iter().enumerate() {
        usage.add(&format!("fish-{index:06}"), *tenant).expect("fits");
    }
    usage
}

/// The numbers of the answer alone.
fn numbers(totals: &Totals, usage: &Usage, request: &Request) -> (u32, Option<LimitedBy>) {
    let capacity = available(totals, usage, request);
    (capacity.count, capacity.limited_by)
}

fn agree(totals: &Totals, tenants: &[Tenant], usage: &Usage, request: &Request) {
    let (found, limit) = numbers(totals, usage, request);
    assert_eq!(i128::from(found), model(totals, tenants, request), "{totals:?} {tenants:?} {request:?}");
    assert!(limit.is_some() || found == u32::MAX);
}

/// Small values as often as great ones.
fn amount() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..40, any::<u32>(), Just(u32::MAX)]
}

prop_compose! {
    fn tenant()(cpu in amount(), ram_gb in amount(), disk in amount(), flags in any::<[bool; 3]>()) -> Tenant {
        let [multitenancy, cpu_overbook, ram_overbook] = flags;
        Tenant { cpu, ram_gb, disk_gb: disk.into(), multitenancy, cpu_overbook, ram_overbook }
    }
}

prop_compose! {
    fn totals()(
        amounts in (amount(), amount(), amount(), amount()),
        alters in (prop_oneof![-20i32..20, any::<i32>()], prop_oneof![-20i32..20, any::<i32>()]),
        disk_gb in proptest::option::of(prop_oneof![0u64..100, any::<u64>()]),
        slots in proptest::option::of(amount()),
        strict in any::<bool>(),
    ) -> Totals {
        Totals {
            cpu: amounts.0,
            ram_gb: amounts.1,
            disk_gb,
            cpu_alter: alters.0,
            ram_alter: alters.1,
            cpu_overbook: amounts.2,
            ram_overbook: amounts.3,
            slots,
            tenancy: if strict { Tenancy::Strict } else { Tenancy::Lenient },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_model(
        totals in totals(),
        tenants in proptest::collection::vec(tenant(), 0..6),
        request in tenant(),
        filtered in proptest::bool::weighted(0.1),
    ) {
        let mut request = Request::from(request);
        request.unmatched_filter = filtered.then(|| "OS:darwin".to_owned());
        let usage = booked(&tenants);
        agree(&totals, &tenants, &usage, &request);

        // The explanation tells the same.
        let capacity = available(&totals, &usage, &request);
        let explained = capacity.explain.all();
        prop_assert_eq!(explained.first().map(|first| first.limit), capacity.limited_by);
        prop_assert_eq!(explained.first().map_or(u32::MAX, |first| first.fits), capacity.count);
        for explanation in &explained {
            prop_assert!(!explanation.to_string().is_empty());
        }
        // Asked why not even one fits, it names that and nothing else.
        let why = capacity.explain.why_not_one();
        prop_assert_eq!(why.is_empty(), capacity.count > 0);
        prop_assert!(why.iter().all(|explanation| explanation.fits == 0 && explanation.missing > 0));
    }

    /// What fits, fits: booking one leaves room for one less, and the count is never a promise that breaks.
    #[test]
    fn booking_one_leaves_one_less(totals in totals(), request in tenant()) {
        let wanted = Request::from(request);
        let mut usage = Usage::new();
        let mut before = numbers(&totals, &usage, &wanted).0;
        for round in 0..4 {
            if before == 0 || before == u32::MAX {
                break;
            }
            usage.add(&format!("e{round}"), request).expect("fits");
            let after = numbers(&totals, &usage, &wanted).0;
            // Answers beyond 32 bits are cut to them.
            prop_assert!(after == before - 1 || after >= u32::MAX - 4, "{before} -> {after}");
            before = after;
        }
    }

    #[test]
    fn the_ledger_is_exact_over_any_history(history in proptest::collection::vec((0usize..6, tenant(), any::<bool>()), 0..60)) {
        let mut usage = Usage::new();
        let mut model: std::collections::BTreeMap<String, Tenant> = std::collections::BTreeMap::new();
        for (who, tenant, add) in history {
            let holder = format!("fish-{who}");
            if add {
                match usage.add(&holder, tenant) {
                    Ok(()) => prop_assert!(model.insert(holder, tenant).is_none()),
                    Err(error) => prop_assert_eq!(error, LedgerError::AlreadyHeld { held: model[&holder], holder }),
                }
            } else {
                // As often what is held as something else.
                let given = if tenant.multitenancy { *model.get(&holder).unwrap_or(&tenant) } else { tenant };
                let expected = model.get(&holder).copied();
                match usage.subtract(&holder, &given) {
                    Ok(()) => {
                        prop_assert_eq!(expected, Some(given));
                        model.remove(&holder);
                    }
                    Err(LedgerError::NotHeld { .. }) => prop_assert_eq!(expected, None),
                    Err(LedgerError::Mismatch { held, .. }) => {
                        prop_assert_eq!(expected, Some(held));
                        prop_assert_ne!(held, given);
                    }
                    Err(error) => return Err(TestCaseError::fail(error.to_string())),
                }
            }
            let sum = |amount: fn(&Tenant) -> u64| model.values().map(amount).map(u128::from).sum::<u128>();
            prop_assert_eq!(u128::from(usage.cpu()), sum(|t| t.cpu.into()));
            prop_assert_eq!(u128::from(usage.ram_gb()), sum(|t| t.ram_gb.into()));
            prop_assert_eq!(u128::from(usage.disk_gb()), sum(|t| t.disk_gb));
            prop_assert_eq!(usage.len(), model.len());
        }
    }
}

/// Every combination of a small domain.
#[test]
fn every_small_case() {
    const FLAGS: [bool; 2] = [false, true];
    let tenant = |cpu, multitenancy, cpu_overbook| Tenant {
        cpu,
        ram_gb: 1,
        disk_gb: 1,
        multitenancy,
        cpu_overbook,
        ram_overbook: cpu_overbook,
    };
    let mut tenants = vec![];
    for cpu in 0..3 {
        for multitenancy in FLAGS {
            for overbook in FLAGS {
                tenants.push(tenant(cpu, multitenancy, overbook));
            }
        }
    }
    let mut running: Vec<Vec<Tenant>> = vec![vec![]];
    running.extend(tenants.iter().map(|one| vec![*one]));
    running.extend(tenants.iter().flat_map(|one| tenants.iter().map(|two| vec![*one, *two])));
    let usages: Vec<Usage> = running.iter().map(|tenants| booked(tenants)).collect();

    let mut cases = 0u64;
    for cpu in 0..4 {
        for cpu_alter in -2..2 {
            for cpu_overbook in 0..3 {
                for slots in [None, Some(0), Some(1), Some(2)] {
                    for disk_gb in [None, Some(0), Some(2)] {
                        for tenancy in [Tenancy::Strict, Tenancy::Lenient] {
                            let (ram_gb, ram_alter, ram_overbook) = (cpu, cpu_alter, cpu_overbook);
                            let totals = Totals {
                                cpu,
                                ram_gb,
                                disk_gb,
                                cpu_alter,
                                ram_alter,
                                cpu_overbook,
                                ram_overbook,
                                slots,
                                tenancy,
                            };
                            for (running, usage) in running.iter().zip(&usages) {
                                for request in &tenants {
                                    agree(&totals, running, usage, &Request::from(*request));
                                    cases += 1;
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(cases, 4 * 4 * 3 * 4 * 3 * 2 * 157 * 12);
}

#[test]
fn the_extremes() {
    let most = Tenant { cpu: u32::MAX, ram_gb: u32::MAX, disk_gb: u64::MAX, ..Tenant::default() };
    let mut usage = Usage::new();
    usage.add("a", most).unwrap();
    assert_eq!(usage.add("b", most), Err(LedgerError::Overflow { what: "disks" }));
    assert_eq!(usage.len(), 1, "unchanged by the error");
    usage.add("b", Tenant { disk_gb: 0, ..most }).unwrap();
    let least = Totals { cpu_alter: i32::MIN, ram_alter: i32::MIN, disk_gb: Some(0), ..Totals::default() };
    let greatest = Totals {
        cpu: u32::MAX,
        ram_gb: u32::MAX,
        disk_gb: Some(u64::MAX),
        cpu_alter: i32::MAX,
        ram_alter: i32::MAX,
        cpu_overbook: u32::MAX,
        ram_overbook: u32::MAX,
        slots: Some(u32::MAX),
        tenancy: Tenancy::Lenient,
    };
    let tolerant = Request { cpu_overbook: true, ram_overbook: true, multitenancy: true, ..Request::from(most) };
    for totals in [least, greatest] {
        for usage in [&usage, &Usage::new()] {
            for request in [&tolerant, &Request::from(most), &Request::default()] {
                let capacity = available(&totals, usage, request);
                for explanation in capacity.explain.all() {
                    assert!(!explanation.to_string().is_empty());
                }
            }
        }
    }
    // An overbooked node and a request that does not tolerate it: the Go driver answered 4 thousand million.
    let totals = Totals { cpu: 16, ram_gb: 64, cpu_overbook: 12, ..Totals::default() };
    let tenant = Tenant { cpu: 14, ram_gb: 8, multitenancy: true, cpu_overbook: true, ..Tenant::default() };
    let usage = booked(&[tenant, tenant]);
    let strict = Request { cpu_overbook: false, ..Request::from(tenant) };
    assert_eq!(numbers(&totals, &usage, &strict), (0, Some(LimitedBy::Cpu)));
    let nothing = Request { multitenancy: true, ..Request::default() };
    assert_eq!(numbers(&totals, &usage, &nothing), (u32::MAX, None), "nothing asked for, nothing limits");
}
