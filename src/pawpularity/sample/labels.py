"""The numbers of the label maps, which say where the parts of a drawn photo are."""

# The order matters: if one thing lies faintly over another (a shadow, a soft rim), the lower number wins.
NOTHING, TONGUE, LEFT_EYE, RIGHT_EYE, CLUTTER, ACCESSORY, SECOND_PET, BODY, BACKGROUND = range(9)
LABELS = {
    NOTHING: "nothing that moves the score: a hand, text, a collage's strip, what stands before the pet",
    TONGUE: "tongue, with the open mouth",
    LEFT_EYE: "left eye: the one at the picture's left when the head is upright; only if it is open",
    RIGHT_EYE: "right eye, likewise",
    CLUTTER: "objects of clutter, with their shadows",
    ACCESSORY: "accessory (worth 0)",
    SECOND_PET: "the second pet, with its shadow",
    BODY: "the pet: head and body, whose pose counts, with its shadow",
    BACKGROUND: "background, whose difference from the pet is the contrast",
}
