//! Archives changed at random: whatever comes, no panic, nothing outside, nothing left of what is refused.
//! `FISH_FUZZ_SECONDS` says for how long (default 1); `FISH_FUZZ_SEED` repeats a run.
#![expect(clippy::unwrap_used, reason = "a test fails where something unexpected happens")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use native_images::{Layout, Limits, Policy, PruneOptions};

struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % below.max(1)
    }
}

/// Valid archives to start from.
fn seeds() -> Vec<Vec<u8>> {
    let odd = tar(&[
        pax(&[("path", b"long/name"), ("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"b")]),
        file("x", b"content"),
        symlink("l", "long"),
        hardlink("h", "long/name"),
        pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"s"),
            ("GNU.sparse.realsize", b"99"),
        ]),
        [header(b"s", b'0', 513, b""), padded(b"1\n5\n1\n"), padded(b"Z")].concat(),
        dir("d"),
        file("d/e", &noise(700, 1)),
    ]);
    let zstd = zstd::encode_all(&odd[..], 1).unwrap();
    let blocks = [xz_blocks(&bait(&odd)[..4096], 1500), vec![0; 4], xz_blocks(&bait(&odd)[4096..], 2000)].concat();
    vec![odd.clone(), bait(&odd), xz(&bait(&odd)), zstd, blocks]
}

/// A few changes: bytes, pieces copied, cut or doubled; header sums made right again, half of the time.
fn change(bytes: &mut Vec<u8>, chance: &mut Chance) {
    for _ in 0..=chance.next(4) {
        let at = chance.next(bytes.len());
        match chance.next(6) {
            0 => bytes[at] = u8::try_from(chance.next(256)).unwrap(),
            1 => bytes[at] ^= 1 << chance.next(8),
            2 => bytes.truncate(at.max(1)),
            3 => {
                let (from, length) = (chance.next(bytes.len()) & !511, 512 * (1 + chance.next(3)));
                let piece: Vec<u8> = bytes.iter().copied().skip(from).take(length).collect();
                let to = at & !511;
                bytes.splice(to..to, piece);
            }
            4 => {
                let interesting: [&[u8]; 8] =
                    [b"../", b"/", b"\0", b"\xff\xff\xff\xff", b"77777777777", b"x", b"g", b"S"];
                let text = interesting[chance.next(interesting.len())];
                for (offset, byte) in text.iter().enumerate() {
                    if let Some(place) = bytes.get_mut(at + offset) {
                        *place = *byte;
                    }
                }
            }
            _ => bytes.extend_from_slice(&noise(chance.next(2000), 3)),
        }
    }
    if chance.next(2) == 0 && !bytes.starts_with(b"\xfd7zXZ") {
        for block in bytes.chunks_exact_mut(512) {
            if block[257..].starts_with(b"ustar") {
                resum(block);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_archives_do_no_harm() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let seed = number("FISH_FUZZ_SEED", 0x9e37_79b9_7f4a_7c15);
    let end = Instant::now() + Duration::from_secs(number("FISH_FUZZ_SECONDS", 1));
    let temp = tempdir();
    let outside = temp.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), b"untouched").unwrap();
    let limits = Limits { entries: 500, expanded: 64 << 20, retries: 0, ..quick() };
    let images = open(temp.path(), Policy { limits, ..policy() });
    let seeds = seeds();
    let mut chance = Chance(seed);
    let current = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let there = std::sync::Arc::clone(&current);
    let server = Server::start(move |_, _| vec![Act::Send(ok(&there.lock().unwrap()))]).await;
    let before = snapshot(&outside);
    let (mut rounds, mut unpacked) = (0u64, 0u64);
    while rounds == 0 || Instant::now() < end {
        let mut bytes = seeds[chance.next(seeds.len())].clone();
        change(&mut bytes, &mut chance);
        current.lock().unwrap().clone_from(&bytes);
        let layout = [Layout::Auto, Layout::Bait, Layout::Plain][chance.next(3)];
        let image = native_images::ImageRef { layout, ..image(&server.url("/a"), None) };
        let good = images.ensure(&image, &none()).await.is_ok();
        unpacked += u64::from(good);
        if good {
            let reports = images.verify(None).await.unwrap();
            assert!(reports.iter().all(native_images::VerifyReport::ok), "seed {seed} round {rounds}: {reports:?}");
            images.prune(&PruneOptions::default()).await.unwrap();
        }
        assert_empty(temp.path());
        assert_eq!(snapshot(&outside), before, "seed {seed} round {rounds}");
        rounds += 1;
    }
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 2);
    println!("{rounds} archives, {unpacked} of them unpacked");
}
