"""What search, study and fit leave behind: search.json, study.json and fit.json as values."""

from __future__ import annotations

from effnet.config import SearchConfig, StudyConfig
from effnet.values import Value

SEARCH, STUDY, FIT = "search.json", "study.json", "fit.json"


class TrialFound(Value):
    """A network that the search tried."""

    number: int
    reward: float  # after the epochs that every trial gets; evolution goes by it
    final_reward: float | None  # if it was trained to the end
    top1: float  # on minival, as far as it was trained
    cost: float  # multiply-adds, or milliseconds
    macs: int
    params: int
    run: str


class SearchFindings(Value):
    """A search for a baseline."""

    config: SearchConfig
    trials: tuple[TrialFound, ...]
    control: tuple[TrialFound, ...]  # the same number of random trials, if the config wants them
    pareto: tuple[int, ...]  # places among the trials


class NetworkFound(Value):
    """A network of the scaling study, on the study's split."""

    strategy: str
    factor: float  # multiply-adds wanted, times the baseline's
    macs: int
    params: int
    activations: int
    resolution: int
    multipliers: tuple[float, float, float]  # of depth, width and resolution, after rounding
    shares: tuple[float, float, float] | None  # of the log of cost that these have; None for the baseline
    seconds: float  # of a training, on average
    runs: tuple[str, ...]  # one of each seed
    top1: tuple[float, ...]  # of each seed
    mean: float
    low: float  # 95 % interval over images and seeds
    high: float


class Contest(Value):
    """One way of scaling against another, at one factor, on the same images."""

    factor: float
    one: str
    other: str
    lead: float  # of `one`, in top-1
    noise: float  # half of its 95 % interval, over images and seeds
    p: float
    p_holm: float  # corrected for the number of contests
    told: str  # "better", "worse", "a tie"; "one seed" where nobody knows
    sees: float | None = None  # the smallest true lead that would be found four times in five; None in older files


class Gain(Value):
    """What one dimension alone gains at a baseline, per doubling of the counted multiply-adds."""

    dimension: str  # depth, width or resolution
    factor: float  # multiply-adds wanted, times the baseline's
    gain: float  # in top-1, per doubling
    noise: float  # half of its 95 % interval, over images and seeds


class StudyFindings(Value):
    """A scaling study."""

    config: StudyConfig
    dataset: str
    coefficients: tuple[float, float, float]  # α, β, γ of `compound`
    baselines: dict[str, tuple[NetworkFound, ...]]
    contests: dict[str, tuple[Contest, ...]]
    gains: dict[str, tuple[Gain, ...]]  # none where the study lacks one of the three dimensions


class CandidateFound(Value):
    """A point of the grid that was trained."""

    coefficients: tuple[float, float, float]  # α, β, γ
    macs: int
    network: str  # beginning of its architecture's key
    grows: int  # in how many of depth, width and resolution, after rounding


class FinalistFound(CandidateFound):
    """A candidate that was trained to the end."""

    runs: tuple[str, ...]  # one of each seed
    top1: tuple[float, ...]  # of each seed, on minival
    mean: float


class RungFound(Value):
    """Top-1 on minival of the candidates that were alive after some epochs, by network."""

    epochs: int
    top1: dict[str, float]


class FitFindings(Value):
    """A grid over α, β, γ."""

    points: int
    candidates: tuple[CandidateFound, ...]
    rungs: tuple[RungFound, ...]
    rank_correlation: tuple[float | None, ...]  # Spearman's, from rung to rung
    finalists: tuple[FinalistFound, ...]
    paper: str  # network of the paper's own coefficients, at the candidates' cost
    paper_in_window: bool  # else it costs too little or too much to be chosen
    compound: int  # candidates that grow in depth, width and resolution
    winner: tuple[float, float, float]
    best: tuple[float, float, float]
    lead: float  # of the best over the runner-up (effnet.search.decision.Decision)
    noise: float
    p: float
    tie: bool
    seeds: int
    told: str
    rule: str
    runs: tuple[str, ...]  # all of the grid
