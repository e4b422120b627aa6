//! [`Image`]: an archive of the shape that Aquarium Bait makes, made with `tar` and `xz` rather than with our own code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::program::command;

/// Files of an image: path, mode, content.
#[derive(Debug, Clone, Default)]
pub struct Tree(Vec<(String, u32, Vec<u8>)>);

impl Tree {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this program.
    #[must_use]
    pub fn program(mut self, path: &str, text: &str) -> Self {
        self.0.push((path.to_owned(), 0o755, text.as_bytes().to_vec()));
        self
    }

    /// With this file.
    #[must_use]
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.0.push((path.to_owned(), 0o644, content.into()));
        self
    }

    /// Writes the files below a directory.
    ///
    /// # Panics
    /// When they can't be written.
    pub fn write(&self, dir: &Path) {
        for (path, mode, content) in &self.0 {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("a file has a directory")).expect("make a directory");
            fs::write(&path, content).expect("write a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).expect("set a mode");
        }
    }
}

/// A workload that takes all that it can get, for ever: disk, temporary space, processes, log, processors.
pub fn greedy() -> Tree {
    Tree::new().program(
        "init.sh",
        r#"#!/bin/bash
echo greedy
trap '' INT TERM HUP
for place in ~ /tmp /dev/shm; do
    (while :; do cat /dev/zero >"$place/fill.$RANDOM" 2>/dev/null; done) &
done
for core in $(seq "$(nproc)"); do (while :; do :; done) & done
yes "$(head -c 2000 /dev/zero | tr '\0' x)" &
bomb() { bomb | bomb & }
while :; do bomb 2>/dev/null; sleep 0.1; done
"#,
    )
}

/// A workload that eats memory until it is killed for it.
pub fn glutton() -> Tree {
    Tree::new().program("init.sh", "#!/bin/bash\necho gluttonous\nx=xxxxxxxx\nwhile :; do x=$x$x; done\n")
}

/// An archive `NAME-VERSION.tar.xz` with `NAME-VERSION/NAME.tar` in it.
#[derive(Debug, Clone)]
pub struct Image {
    /// Where it is.
    pub path: PathBuf,
    /// The file's name, which the server knows it by.
    pub file: String,
    /// `sha256:...`.
    pub sum: String,
}

impl Image {
    /// Packs a tree.
    ///
    /// # Panics
    /// When `tar`, `xz` or `sha256sum` do not do their work.
    pub fn pack(dir: &Path, name: &str, tree: &Tree) -> Self {
        let id = format!("{name}-20260101.000000_0badcafe");
        let (files, outer) = (dir.join(format!("{name}.files")), dir.join(format!("{name}.outer")));
        let inside = outer.join(&id);
        fs::create_dir_all(&files).expect("make a directory");
        fs::create_dir_all(&inside).expect("make a directory");
        tree.write(&files);
        let layer = format!("{name}.tar");
        // Somebody else's uid: whoever unpacks must not take it over.
        tool(&files, "tar", &["--owner=4711", "--group=4711", "-cf", text(&inside.join(&layer)), "."]);
        let sums = tool(&inside, "sha256sum", &[&layer]);
        fs::write(inside.join(format!("{name}.sha256")), sums).expect("write a file");
        fs::write(inside.join(format!("{name}.yml")), format!("name: {name}\n")).expect("write a file");
        let path = dir.join(format!("{id}.tar.xz"));
        tool(&outer, "tar", &["-cJf", text(&path), &id]);
        let sum = tool(dir, "sha256sum", &[text(&path)]);
        let sum = format!("sha256:{}", sum.split_whitespace().next().unwrap_or_default());
        Self { file: format!("{id}.tar.xz"), path, sum }
    }

    /// The size of the archive.
    ///
    /// # Panics
    /// When it is gone.
    pub fn size(&self) -> usize {
        usize::try_from(fs::metadata(&self.path).expect("the image is there").len()).unwrap_or(usize::MAX)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the suite's paths are text")
}

fn tool(dir: &Path, program: &str, args: &[&str]) -> String {
    let out = command(program).current_dir(dir).args(args).output().expect("start a tool");
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}
