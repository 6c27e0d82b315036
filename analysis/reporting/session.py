"""What one visitor of the page has before them: an image, settings of its scores, the prototypes on the sliders."""

from analysis.reporting.explorer import Explorer, LoadedImage

SLIDERS = 6


class Session:
    """The loaded image, the scores that are set in it, and what was set before."""

    def __init__(self, explorer: Explorer):
        self.explorer, self.slots = explorer, explorer.order[:SLIDERS]
        self.chosen = self.slots[0]
        self.put(explorer.test_image(0), 0)

    def put(self, image: LoadedImage, row: int | None = None) -> None:
        """Load an image; row: its place among the test images, None for an uploaded one."""
        self.image, self.row = image, row
        self.settings: dict[int, float] = {}
        self.before: list[dict[int, float]] = []

    def choose(self, k: int) -> None:
        """Show a prototype, and give it the last slider where it has none."""
        self.chosen = k
        if k not in self.slots:
            self.slots = [*self.slots[:-1], k]

    def set(self, settings: dict[int, float]) -> None:
        """Set scores; undo() takes it back."""
        self.before.append(dict(self.settings))
        self.settings |= settings

    def undo(self) -> None:
        self.settings = self.before.pop() if self.before else {}

    def reset(self) -> None:
        self.settings, self.before = {}, []

    def value(self, k: int) -> float:
        return self.settings.get(k, self.image.scores[k].item())
