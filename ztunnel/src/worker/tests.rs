//! Whole workers on scripted sockets: two of them back to back under random schedules, and single facts of the life of
//! a connection. No real socket, no real time; every schedule is a seed.

mod cost;
mod ends;
mod facts;
mod held;
mod hostile;
mod mesh;
mod names;
mod owners;
mod retire;
mod same_node;
mod schedules;
mod sim;
mod tunnels;
mod words;
