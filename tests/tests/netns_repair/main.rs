//! Somebody removes or alters what is ours, with tools that are not ours, while
//! real clients use it: `lb verify` says what is wrong, and the agent puts it
//! right within seconds.

mod hooks;
mod pins;
mod rows;
mod scene;
