"""Coats of the sample's cats and dogs: colours, patterns, ears. `look` gives the coat a drawing uses."""

from dataclasses import dataclass, replace

from pawpularity.sample.canvas import Colour, luminance, mix, tone

BLACK_INK: Colour = (38.0, 32.0, 36.0)
PINK: Colour = (228.0, 150.0, 146.0)
GREEN, AMBER, BLUE, BROWN = (128.0, 172.0, 96.0), (214.0, 158.0, 62.0), (104.0, 166.0, 214.0), (122.0, 78.0, 44.0)


@dataclass(frozen=True)
class Look:
    """A coat. `second` colours muzzle, chest and paws, `mark` the pattern; `fluff` (0..1) makes the outline shaggy."""

    base: Colour
    second: Colour
    mark: Colour
    pattern: str
    ears: str
    iris: Colour
    fluff: float
    rest: float  # how much lighter the whole pet is than its base colour, levels, measured on drawings
    species: str = "dog"
    nose: Colour = (44.0, 38.0, 40.0)

    @property
    def luma(self) -> float:
        """Mean luma of a whole pet with this coat (0..255), accurate enough to set the contrast."""
        return luminance(self.base) + self.rest

    @property
    def ink(self) -> Colour:
        """The colour of the soft dark rims between limbs."""
        return mix(self.base, BLACK_INK, 0.75)


def _cat(
    base: Colour, second: Colour, mark: Colour, pattern: str, iris: Colour, fluff: float = 0.15, *, rest: float
) -> Look:
    nose = PINK if luminance(base) > 90 else (84.0, 62.0, 66.0)
    return Look(base, second, mark, pattern, "cat", iris, fluff, rest, "cat", nose)


LOOKS: dict[str, tuple[Look, ...]] = {
    "cat": (
        _cat((226, 150, 82), (250, 228, 200), (182, 100, 44), "tabby", GREEN, rest=-10),  # ginger tabby
        _cat((152, 148, 142), (228, 224, 216), (88, 84, 82), "tabby", AMBER, rest=-7),  # silver tabby
        _cat((166, 128, 90), (224, 202, 172), (92, 66, 46), "tabby", GREEN, rest=-5),  # brown tabby
        _cat((50, 47, 52), (244, 241, 236), (50, 47, 52), "tuxedo", GREEN, rest=46),  # tuxedo
        _cat((44, 42, 48), (58, 55, 60), (44, 42, 48), "plain", AMBER, 0.25, rest=11),  # black
        _cat((242, 238, 230), (252, 248, 242), (214, 206, 196), "plain", BLUE, 0.4, rest=-27),  # white, long-haired
        _cat((234, 216, 190), (244, 232, 214), (98, 74, 62), "points", BLUE, rest=-43),  # Siamese
        _cat((246, 240, 230), (252, 248, 242), (214, 136, 70), "patches", GREEN, rest=-45),  # calico
        _cat((130, 140, 154), (146, 156, 170), (130, 140, 154), "plain", GREEN, rest=-7),  # Russian blue
        _cat((238, 208, 166), (250, 232, 206), (214, 172, 122), "tabby", AMBER, 0.7, rest=-23),  # cream Persian
        _cat((104, 92, 86), (238, 232, 224), (56, 50, 48), "patches", AMBER, 0.3, rest=15),  # smoke and white
    ),
    "dog": (
        Look((218, 168, 100), (242, 214, 164), (196, 142, 78), "plain", "floppy", BROWN, 0.6, -16),  # golden retriever
        Look((50, 47, 50), (66, 62, 64), (50, 47, 50), "plain", "floppy", BROWN, 0.1, 4),  # black Labrador
        Look((112, 72, 48), (134, 92, 64), (112, 72, 48), "plain", "floppy", AMBER, 0.1, 1),  # chocolate Labrador
        Look((194, 126, 74), (248, 242, 232), (64, 50, 44), "saddle", "floppy", BROWN, 0.1, -26),  # beagle
        Look((118, 122, 134), (244, 244, 244), (84, 88, 98), "mask", "pointed", BLUE, 0.4, 23),  # husky
        Look((192, 140, 86), (216, 174, 124), (64, 52, 46), "saddle", "pointed", BROWN, 0.35, -33),  # shepherd
        Look((244, 241, 236), (250, 248, 244), (44, 42, 46), "spots", "floppy", BROWN, 0.05, -65),  # Dalmatian
        Look((222, 148, 82), (250, 244, 234), (222, 148, 82), "blaze", "pointed", BROWN, 0.3, -1),  # corgi
        Look((240, 230, 214), (248, 242, 232), (224, 208, 186), "plain", "curly", BROWN, 1.0, -29),  # bichon
        Look((54, 51, 56), (246, 243, 238), (54, 51, 56), "blaze", "folded", BROWN, 0.6, 39),  # border collie
        Look((222, 190, 146), (232, 206, 168), (72, 58, 54), "muzzle", "folded", BROWN, 0.05, -38),  # pug
        Look((146, 142, 138), (196, 192, 186), (110, 106, 104), "muzzle", "folded", BROWN, 0.9, -17),  # schnauzer
        Look((202, 130, 84), (222, 158, 112), (176, 108, 66), "plain", "curly", BROWN, 1.0, -15),  # apricot poodle
    ),
}


def look(species: str, coat: int, shift: float) -> Look:
    """Coat number `coat` of a species, with its luminance moved by `shift` (levels), so that pets of one coat differ."""
    plain = LOOKS[species][coat]

    def moved(colour: Colour) -> Colour:
        return tone(colour, min(max(luminance(colour) + shift, 30.0), 246.0))

    mark = mix(plain.mark, moved(plain.mark), 0.5)
    return replace(plain, base=moved(plain.base), second=moved(plain.second), mark=mark)
