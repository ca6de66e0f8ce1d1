//! Everything, one after the other. A part that fails is told of at the end, and the others are measured all the same.

use anyhow::Context;
use cell_figures::Figures;
use clap::ValueEnum;

use crate::ground::Ground;
use crate::{cold, compare, fanout, million, ordeal, recover};

/// Everything that `make bench-store` measures.
#[derive(Debug, clap::Args)]
pub(crate) struct All {
    /// A look that takes minutes: fewer rounds, smaller stores. Floors that are of larger ones are left out, and that is said
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
}

/// A part of the whole, in the order in which they are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Compare,
    Fanout,
    Gaps,
    Million,
    Cold,
    Recover,
    Kill,
    Cut,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Compare => "compare",
            Self::Fanout => "fanout",
            Self::Gaps => "gaps",
            Self::Million => "million",
            Self::Cold => "cold",
            Self::Recover => "recover",
            Self::Kill => "kill",
            Self::Cut => "cut",
        }
    }

    /// The arguments of a look.
    const fn quick(self) -> &'static [&'static str] {
        match self {
            Self::Compare => &["--rounds", "1", "--seconds", "1"],
            Self::Fanout => &["--watchers", "100", "--seconds", "3", "--rounds", "1"],
            Self::Gaps => &["--rounds", "1"],
            // Enough for a gap of 100,000 events.
            Self::Million => &["--mappings", "110000"],
            Self::Cold => &["--mappings", "50000", "--routers", "1", "--snapshots", "3"],
            Self::Recover => &["--megabytes", "50"],
            Self::Kill | Self::Cut => &["--rounds", "8"],
        }
    }

    async fn run(self, words: &[&str], ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
        match self {
            Self::Compare => compare::run(&parsed(words)?, ground, figures).await,
            Self::Fanout => fanout::run(&parsed(words)?, ground, figures).await,
            Self::Gaps => ordeal::gaps(&parsed(words)?, ground, figures).await,
            Self::Million => million::run(&parsed(words)?, ground, figures).await,
            Self::Cold => cold::run(&parsed(words)?, ground, figures).await,
            Self::Recover => recover::run(&parsed(words)?, ground, figures).await,
            Self::Kill => ordeal::kill(&parsed(words)?, ground, figures).await,
            Self::Cut => ordeal::cut(&parsed(words)?, ground, figures).await,
        }
    }
}

/// What a part would be told with these words, and where they say nothing by default.
fn parsed<T: clap::Args>(words: &[&str]) -> anyhow::Result<T> {
    let command = T::augment_args(clap::Command::new("part").no_binary_name(true));
    let matches = command.try_get_matches_from(words).context("a part does not take these words")?;
    Ok(T::from_arg_matches(&matches)?)
}

pub(crate) async fn run(all: &All, ground: &Ground, figures: &mut Figures) {
    let wanted = |part: &&Part| all.only.is_empty() || all.only.contains(part);
    for part in Part::value_variants().iter().filter(wanted) {
        crate::say(&format!("\n== {}\n", part.name()));
        let words = if all.quick { part.quick() } else { &[] };
        let outcome = Box::pin(part.run(words, ground, figures)).await;
        if let Err(why) = &outcome {
            crate::say(&format!("{} has failed: {why:#}\n", part.name()));
        }
        figures.ended(part.name(), outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_takes_the_words_of_a_look_and_none() {
        fn takes<T: clap::Args>(part: Part) {
            parsed::<T>(part.quick()).unwrap();
            parsed::<T>(&[]).unwrap();
        }
        for part in Part::value_variants() {
            match part {
                Part::Compare => takes::<compare::Compare>(*part),
                Part::Fanout => takes::<fanout::Fanout>(*part),
                Part::Gaps => takes::<ordeal::Gaps>(*part),
                Part::Million => takes::<million::Million>(*part),
                Part::Cold => takes::<cold::Cold>(*part),
                Part::Recover => takes::<recover::Recover>(*part),
                Part::Kill => takes::<ordeal::Kill>(*part),
                Part::Cut => takes::<ordeal::Cut>(*part),
            }
        }
        assert!(
            parsed::<cold::Cold>(&["--mappings", "0"]).is_err(),
            "nothing is never there, and always all of it"
        );
    }
}
