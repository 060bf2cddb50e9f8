//! `quarterdeck store` as clusters of processes: under etcd's own client, under clients of other languages, and under faults.

mod auth;
mod clients;
mod drill;
mod pause;
mod walk;
