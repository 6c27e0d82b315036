"""What one visitor of the page has before them: an image, settings of its scores, the prototypes on the sliders."""

from analysis.reporting.desk import Desk, DeskImage

SLIDERS = 6


class Session:
    """The image on the desk, the scores that are set in it, and what was set before."""

    def __init__(self, desk: Desk):
        self.desk, self.slots = desk, desk.order[:SLIDERS]
        self.chosen = self.slots[0]
        self.put(desk.test_image(0), 0)

    def put(self, image: DeskImage, row: int | None = None) -> None:
        """Take up an image; row: its place among the test images, None for one that was brought."""
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
