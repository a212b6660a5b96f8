"""Training torch's modules on convlane's kernels."""

import copy

import pytest

pytestmark = pytest.mark.torch


def as_function(*args):
    from convlane.bridges.torch import as_function

    return as_function(*args)


def assert_same_gradients(mine, other):
    import torch

    largest = max(float(two.grad.abs().max()) for two in other.parameters() if two.grad is not None)
    for (name, one), two in zip(mine.named_parameters(), other.parameters(), strict=True):
        if two.grad is None:
            assert one.grad is None, name
        else:
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-4 * largest)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "large kernels",
            "upward",
            "branches",
            "two inputs",
            "shared",
            "attention",
            "masks",
            "quantised",
            "recurrent",
        ),
        *("cell", "dynamic", "volume"),
    ],
)
def test_gradients(name):
    import torch

    from torch_modules import make

    network, inputs = make(name)
    inputs = tuple(each.requires_grad_() for each in inputs)
    twin, others = copy.deepcopy(network), tuple(each.detach().clone().requires_grad_() for each in inputs)
    torch.manual_seed(1)
    for run, given in ((as_function(network, inputs), inputs), (twin, others)):
        outputs = torch.utils._pytree.tree_leaves(run(*given))
        torch.manual_seed(2)
        total = 0
        for output in outputs:
            if output.requires_grad:
                total = total + (output * torch.randn(output.shape)).sum()
        total.backward()
    assert_same_gradients(network, twin)
    for one, two in zip(inputs, others, strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-3 * float(two.grad.abs().max()))


def test_optimiser_of_torch():
    """Losses, statistics of batch norm and modes are those of the module itself."""
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2)
    )
    twin, picture = copy.deepcopy(network), torch.randn(4, 3, 8, 8)
    losses = []
    for module, run in ((network, as_function(network, picture)), (twin, twin)):
        optimiser = torch.optim.SGD(module.parameters(), 0.01)
        for _ in range(3):
            optimiser.zero_grad()
            loss = run(picture).square().mean()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        module.eval()
        losses.append(run(picture).square().mean().item())
    assert losses[:4] == pytest.approx(losses[4:], rel=1e-3)
    torch.testing.assert_close(network[1].running_var, twin[1].running_var)
    assert network[1].num_batches_tracked == 3


def test_frozen_parameters_and_no_gradients():
    import torch

    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Conv2d(2, 1, 1))
    network[0].weight.requires_grad_(False)
    run = as_function(network, torch.zeros(1, 1, 3, 3))
    with torch.no_grad():
        assert not run(torch.ones(2, 1, 3, 3)).requires_grad
    output = run(torch.ones(2, 1, 3, 3))
    output.sum().backward()
    assert network[0].weight.grad is None
    assert network[0].bias.grad is not None
    with pytest.raises(RuntimeError, match="have already been computed"):
        output.sum().backward()


def test_results_without_a_gradient():
    import torch

    class Indices(torch.nn.Module):
        def forward(self, x):
            return x.argmax(1), x.detach() * 2, x.shape[1], x * 3

    x = torch.randn(2, 5, requires_grad=True)
    indices, twice, size, thrice = as_function(Indices(), x)(x)
    assert torch.equal(indices, x.argmax(1))
    assert size == 5
    assert not twice.requires_grad
    thrice.sum().backward()
    assert torch.equal(x.grad, torch.full((2, 5), 3.0))
    constant = as_function(torch.nn.Identity(), x.detach())
    assert not constant(x.detach()).requires_grad


def test_buffers_that_only_torch_would_change_are_refused():
    import torch

    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.utils.spectral_norm(torch.nn.Conv2d(3, 4, 3)))
    picture = torch.randn(2, 3, 6, 6)
    run = as_function(network, picture)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=r"changes its buffer 1.weight_u, 1.weight_v, but only batch norms do so here"):
        run(picture)
    for name, numbers in network.state_dict().items():
        assert torch.equal(numbers, before[name])
    network[1].eval()
    run(picture).sum().backward()
    assert not torch.equal(network[0].running_mean, before["0.running_mean"])


def test_what_differs_is_refused(monkeypatch):
    import torch

    from convlane.bridges.torch import converters

    monkeypatch.setitem(converters.CONVERTERS, "relu", lambda input: input)
    with pytest.raises(ValueError, match=r"as_function: on the example .* the first operation that differs is relu"):
        as_function(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.ReLU()), torch.randn(2, 1, 5, 5))
