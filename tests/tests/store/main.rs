//! `quarterdeck store` as clusters of processes: under etcd's own client, under clients of other languages, and under faults.

mod auth;
mod clients;
mod ctl;
mod drill;
mod masters;
mod pause;
mod walk;
mod whole_state;
