//! Executes the driver's steps on Linux: accounts, namespaces, cgroups, loop disks, layers, workloads.
