"""Groups of settings that stand in several places."""

from ml_collections import ConfigDict


def utility(
    name: str,
    *,
    gamma: float | int = 0.5,
    sigma: float | int = 1.0,
    epsilon: float | int = 0.1,
    extension: str = "tangent",
    a: float | int = 2.0,
    b: float | int = 2.0,
) -> ConfigDict:
    """The settings of one utility U of a reward gap x (better minus worse), locked."""
    c = ConfigDict()
    c.name = name  # power x^gamma, negative_power -x^-gamma, log, log_sigmoid log s(x/sigma), linear,
    #                exponential -exp(-x/sigma), quantile (rewards follow Beta(a, b)), or FILE.py:CLASS of your own
    c.gamma = float(gamma)  # exponent; power: in (0, 1], negative_power: above 0, others: unused
    c.sigma = float(sigma)  # scale of log_sigmoid and exponential, in units of reward; others: unused
    c.a = float(a)  # first shape of quantile's Beta law, above 0; others: unused
    c.b = float(b)  # second shape of quantile's Beta law, above 0; others: unused
    c.epsilon = float(epsilon)  # gap below which the extension takes over, in units of reward
    c.extension = extension  # tangent: straight line below epsilon; shift: U(x + epsilon)
    return c.lock()


def optimizer(learning_rate: float | int, warmup: int) -> ConfigDict:
    """The optimizer and its schedule, the same settings in every stage, locked."""
    c = ConfigDict()
    c.name = "adamw"  # adamw; adafactor: no first moment, of large matrices the means of the second over rows and
    #                   columns; muon: orthogonal updates of the layers' matrices, AdamW for the rest
    c.learning_rate = float(learning_rate)  # peak, per update
    c.warmup = warmup  # updates of linear rise from 0 to the peak
    c.schedule = "cosine"  # after the warmup: cosine or linear down to 0, or constant
    c.weight_decay = 0.0  # decoupled; multiplied by the learning rate
    c.clip_norm = 1.0  # global norm above which gradients are scaled down; 0: never
    c.beta1 = 0.9  # decay of Adam's first moment; adafactor: unused
    c.beta2 = 0.99  # decay of Adam's second moment; adafactor: unused
    c.epsilon = 1e-8  # added to the root of Adam's second moment; adafactor: unused
    c.momentum = 0.95  # muon: decay of the momentum of matrices; others: unused
    c.update_rms = 0.2  # muon: root mean square of the update of a matrix, in learning rates; others: unused
    c.factored_from = 128  # adafactor: rows and columns from which a matrix has means alone; others: unused
    c.scale_parameter = False  # adafactor: steps are relative to a parameter's root mean square; others: unused
    return c.lock()
