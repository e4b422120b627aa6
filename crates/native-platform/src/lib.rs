//! The contract between the driver and a host: steps, presence, receipts, commands, errors.
