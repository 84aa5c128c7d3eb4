//! How the provider goes wrong for a while.

use outdial::synthflow::sandbox::{Delay, Fault, FaultKind, On};

use super::schedule::Dice;

/// One to three of the kinds, each at a rate of its own.
pub fn fault_table(dice: &mut Dice) -> Vec<Fault> {
    let kinds = dice.shuffled(&KINDS);
    let n = dice.within(1, 3) as usize;
    kinds.into_iter().take(n).flat_map(|kind| kind.faults(dice)).collect()
}

/// How webhooks go wrong all the time: four in ten never come, others twice, late and so in another order, again, with a
/// lie under a wrong signature, with one under a right one.
pub fn webhook_faults() -> Vec<Fault> {
    let late = Delay { min: 0, max: 3_000, heavy_tail: false };
    vec![
        Fault::new(FaultKind::WebhookDrop, 0.4),
        Fault::new(FaultKind::WebhookDouble, 0.2),
        Fault { delay_ms: Some(late), ..Fault::new(FaultKind::WebhookDelay, 0.3) },
        Fault::new(FaultKind::WebhookReplay, 0.1).delayed(1_000),
        Fault::new(FaultKind::WebhookForge, 0.2),
        Fault::new(FaultKind::WebhookLie, 0.1),
    ]
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Late,
    Busy,
    Failing,
    Unreadable,
    Dropped,
    Silent,
    Dying,
    ListLag,
    ListBroken,
    Fresh404,
    OtherCaller,
}

const KINDS: [Kind; 11] = [
    Kind::Late,
    Kind::Busy,
    Kind::Failing,
    Kind::Unreadable,
    Kind::Dropped,
    Kind::Silent,
    Kind::Dying,
    Kind::ListLag,
    Kind::ListBroken,
    Kind::Fresh404,
    Kind::OtherCaller,
];

impl Kind {
    fn faults(self, dice: &mut Dice) -> Vec<Fault> {
        let mut rate = |percent_max: u64| dice.within(1, percent_max) as f64 / 100.0;
        match self {
            Self::Late => {
                let delay = Delay { min: 20, max: 5_000, heavy_tail: true };
                vec![Fault { delay_ms: Some(delay), ..Fault::new(FaultKind::Latency, rate(50)) }]
            }
            Self::Busy => vec![Fault { retry_after_s: Some(1), ..Fault::answer(429, rate(60)) }],
            Self::Failing => {
                vec![Fault::answer(500, rate(10)), Fault::answer(503, rate(10)).but_place()]
            }
            Self::Unreadable => [FaultKind::Empty, FaultKind::Unreadable, FaultKind::Cut]
                .map(|kind| Fault::new(kind, rate(5)))
                .into(),
            Self::Dropped => {
                let unplaced = Fault { place: Some(false), ..Fault::new(FaultKind::Reset, rate(5)) };
                vec![Fault::new(FaultKind::Close, rate(5)), Fault::new(FaultKind::Reset, rate(5)), unplaced]
            }
            Self::Silent => vec![Fault::new(FaultKind::Hang, rate(2))],
            Self::Dying => vec![Fault::new(
                if rate(2) > 0.01 { FaultKind::Die } else { FaultKind::DieUnanswered },
                rate(2),
            )],
            Self::ListLag => vec![Fault::new(FaultKind::ListLag, rate(80)).delayed(2_000)],
            Self::ListBroken => {
                vec![Fault::answer(500, rate(50)).on(On::List), Fault::answer(429, rate(50)).on(On::Record)]
            }
            Self::Fresh404 => vec![Fault::new(FaultKind::Fresh404, rate(80)).delayed(2_000)],
            Self::OtherCaller => vec![Fault::new(FaultKind::OtherCaller, rate(20))],
        }
    }
}
