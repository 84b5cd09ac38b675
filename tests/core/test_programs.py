"""Programs as PyTorch's users write them. Only the first lines are changed."""

import contextlib
import io

import numpy as np


def test_tensors() -> None:
    import headrace as torch

    x = torch.tensor([[1, 2], [3, 4]], dtype=torch.float32)
    y = torch.rand(2, 2)
    z = x + y
    assert z.shape == (2, 2) and z.dtype == torch.float32
    np.testing.assert_array_equal(z.numpy(), x.numpy() + y.numpy())


def test_a_dataset_fed_to_a_loader() -> None:
    from headrace.utils.data import DataLoader, Dataset

    import headrace as torch

    class CustomDataset(Dataset):
        def __init__(self, data, labels):
            self.data = data
            self.labels = labels

        def __len__(self):
            return len(self.data)

        def __getitem__(self, idx):
            return self.data[idx], self.labels[idx]

    dataset = CustomDataset(torch.arange(100).float().reshape(100, 1), torch.arange(100))
    dataloader = DataLoader(dataset, batch_size=32, shuffle=True)
    seen = []
    for data, labels in dataloader:
        assert data.shape[0] == labels.shape[0] <= 32 and data.shape[1:] == (1,)
        np.testing.assert_array_equal(data.numpy()[:, 0], labels.numpy())
        seen += labels.tolist()
    assert sorted(seen) == list(range(100)) and seen != list(range(100)) and len(dataloader) == 4


def test_a_module() -> None:
    import headrace as torch
    import headrace.nn as nn

    class SimpleNN(nn.Module):
        def __init__(self):
            super(SimpleNN, self).__init__()  # noqa: UP008
            self.fc1 = nn.Linear(10, 1)

        def forward(self, x):
            x = torch.sigmoid(self.fc1(x))
            return x

    model = SimpleNN()
    output = model(torch.randn(1, 10))
    assert output.shape == (1, 1) and 0 < output.item() < 1
    assert [name for name, _ in model.named_parameters()] == ["fc1.weight", "fc1.bias"]


def test_the_training_loop() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        import headrace as torch
        import headrace.nn as nn
        import headrace.optim as optim

        torch.manual_seed(0)
        X = torch.randn(100, 10)
        y = torch.randint(0, 2, (100, 1)).float()

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc1 = nn.Linear(10, 5)
                self.fc2 = nn.Linear(5, 1)

            def forward(self, x):
                x = torch.relu(self.fc1(x))
                x = torch.sigmoid(self.fc2(x))
                return x

        model = Net()
        criterion = nn.BCELoss()
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        for epoch in range(100):
            optimizer.zero_grad()
            outputs = model(X)
            loss = criterion(outputs, y)
            loss.backward()
            optimizer.step()
            if (epoch + 1) % 10 == 0:
                print(f"Epoch [{epoch + 1}/100], Loss: {loss.item():.4f}")
    losses = [float(line.rsplit(" ", 1)[1]) for line in printed.getvalue().splitlines()]
    assert len(losses) == 10 and losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.01


def test_one_seed_gives_the_same_bits() -> None:
    import headrace as torch
    import headrace.nn as nn

    def run() -> bytes:
        torch.manual_seed(7)
        net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        loss = net(torch.randn(16, 6)).square().mean()
        loss.backward()
        return b"".join(p.grad.numpy().tobytes() for p in net.parameters())

    assert run() == run()
