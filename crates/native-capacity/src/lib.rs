//! Pure accounting: how many more of a request fit on a node, and why not more.
