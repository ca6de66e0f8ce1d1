//! Drills, load, history checker and reports
