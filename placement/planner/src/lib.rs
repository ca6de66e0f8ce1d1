//! Pure placement: fleet to decision, plan and explanation
