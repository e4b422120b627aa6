//! Several digests of one stream.

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use crate::image::{Algo, Checksum};

/// One digest in the making. Clonable, so that a resumed download can prove that the beginning is the same.
#[derive(Clone)]
enum Hasher {
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
}

/// All digests that somebody will compare.
#[derive(Clone)]
pub(crate) struct Digests {
    hashers: Vec<(Algo, Hasher)>,
}

impl Digests {
    /// sha256 always, for that is the content's identity, and each of `others`.
    pub(crate) fn new(others: impl IntoIterator<Item = Algo>) -> Self {
        let mut digests = Self { hashers: Vec::with_capacity(2) };
        for algo in std::iter::once(Algo::Sha256).chain(others) {
            if digests.hashers.iter().any(|(known, _)| *known == algo) {
                continue;
            }
            let hasher = match algo {
                Algo::Md5 => Hasher::Md5(Md5::new()),
                Algo::Sha1 => Hasher::Sha1(Sha1::new()),
                Algo::Sha256 => Hasher::Sha256(Sha256::new()),
                Algo::Sha512 => Hasher::Sha512(Sha512::new()),
            };
            digests.hashers.push((algo, hasher));
        }
        digests
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        for (_, hasher) in &mut self.hashers {
            match hasher {
                Hasher::Md5(hasher) => hasher.update(bytes),
                Hasher::Sha1(hasher) => hasher.update(bytes),
                Hasher::Sha256(hasher) => hasher.update(bytes),
                Hasher::Sha512(hasher) => hasher.update(bytes),
            }
        }
    }

    pub(crate) fn finish(self) -> Vec<Checksum> {
        self.hashers
            .into_iter()
            .map(|(algo, hasher)| {
                let digest = match hasher {
                    Hasher::Md5(hasher) => hasher.finalize().to_vec(),
                    Hasher::Sha1(hasher) => hasher.finalize().to_vec(),
                    Hasher::Sha256(hasher) => hasher.finalize().to_vec(),
                    Hasher::Sha512(hasher) => hasher.finalize().to_vec(),
                };
                Checksum { algo, digest }
            })
            .collect()
    }
}

/// The digest of `algo` among `sums`.
pub(crate) fn find(sums: &[Checksum], algo: Algo) -> Option<&Checksum> {
    sums.iter().find(|sum| sum.algo == algo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_agree_with_the_published_values_of_abc() {
        let mut digests = Digests::new([Algo::Md5, Algo::Sha1, Algo::Sha512, Algo::Sha256]);
        digests.update(b"a");
        digests.update(b"bc");
        let sums = digests.finish();
        assert_eq!(sums.len(), 4);
        assert_eq!(find(&sums, Algo::Md5).unwrap().to_string(), "md5:900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(find(&sums, Algo::Sha1).unwrap().to_string(), "sha1:a9993e364706816aba3e25717850c26c9cd0d89d");
        let sha256 = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(find(&sums, Algo::Sha256).unwrap().to_string(), sha256);
        assert!(find(&sums, Algo::Sha512).unwrap().to_string().starts_with("sha512:ddaf35a193617aba"));
    }
}
