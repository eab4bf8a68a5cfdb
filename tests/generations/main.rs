//! Generations as an operator handles them, with the program itself: which there are, going back, verifying, removing, writing
//! their rules out, and what older versions of the program wrote.

mod commands;
mod compare;
mod export;
mod formats;
mod site;
