//! Everything, one after the other. A part that fails is told of at the end, and the others are measured all the same.

use anyhow::Result;
use cell_figures::Figures;
use clap::ValueEnum;

use crate::compare::{Compare, Extent};
use crate::fair::Fair;
use crate::ground::Ground;
use crate::idle::Idle;
use crate::instructions::Instructions;
use crate::proxies::{Wire, say};
use crate::size::Size;
use crate::visible::Visible;

/// Everything that `make bench-router` measures.
#[derive(Debug, clap::Args)]
pub(crate) struct All {
    /// A look that takes minutes: one round of a second where five of four seconds are measured
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
}

/// A part of the whole, in the order in which they are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Http1,
    Fair,
    Visible,
    Idle,
    Size,
    Http2,
    Tls,
    Grpc,
    Instructions,
}

const TENANTS: u32 = 100_000;
const MANY_TENANTS: u32 = 1_000_000;

impl Part {
    async fn run(self, quick: bool, ground: &Ground, figures: &mut Figures) -> Result<()> {
        let extent = if quick { Extent { rounds: 1, seconds: 1 } } else { Extent { rounds: 5, seconds: 4 } };
        let compared = |wire, figures| Compare { extent, wire, tenants: TENANTS }.measure(ground, figures);
        match self {
            Self::Http1 => compared(Wire::H1, figures),
            Self::Http2 => compared(Wire::H2, figures),
            Self::Tls => compared(Wire::Tls, figures),
            Self::Grpc => compared(Wire::Grpc, figures),
            Self::Fair => Fair { seconds: if quick { 5 } else { 15 } }.measure(ground, figures),
            Self::Visible => {
                let changes = if quick { 100 } else { 500 };
                Visible { extent, tenants: MANY_TENANTS, changes }.measure(figures).await
            }
            Self::Idle => {
                let (connections, beside) = if quick { (2_000, 2_000) } else { (50_000, 8_000) };
                Idle { connections, beside }.measure(ground, figures)
            }
            Self::Size if quick => Size { extent, tenants: vec![MANY_TENANTS] }.measure(ground, figures),
            Self::Size => {
                let extent = Extent { rounds: 3, ..extent };
                Size { extent, tenants: vec![TENANTS, MANY_TENANTS] }.measure(ground, figures)
            }
            Self::Instructions => {
                let requests = if quick { 1_600 } else { 10_000 };
                Instructions { requests, at_most: None }.measure(ground, figures).await
            }
        }
    }
}

pub(crate) async fn run(all: &All, ground: &Ground, figures: &mut Figures) {
    let wanted = |part: &&Part| all.only.is_empty() || all.only.contains(part);
    for part in Part::value_variants().iter().filter(wanted) {
        let name = part.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        say(&format!("\n== {name}"));
        let outcome = Box::pin(part.run(all.quick, ground, figures)).await;
        if let Err(why) = &outcome {
            say(&format!("{name} has failed: {why:#}"));
        }
        figures.ended(&name, outcome);
    }
}
