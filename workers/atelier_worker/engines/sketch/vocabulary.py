"""What the enhancement says: phrases on composition, light, palette, medium and detail, by what the prompt is about.

Every phrase can follow a comma. Phrases name nothing that would make the prompt mean another scene; `enhance` checks
that with the reader that the pictures are made with, and leaves out what repeats a word that was said already.
"""

from __future__ import annotations

# Scenes that want the same points of view.
FAMILIES: dict[str, str] = {
    scene: family
    for family, scenes in {
        "shore": "lighthouse harbour ocean paperboats",
        "town": "street alley market skyline",
        "land": "terraces mountain dunes forest house castle",
        "inside": "room stilllife",
        "figure": "portrait cat heron fish robot",
        "vehicle": "bicycle railway car balloon",
        "plant": "sunflower",
        "open": "abstract space",
    }.items()
    for scene in scenes.split()
}

COMPOSITION: dict[str, tuple[str, ...]] = {
    "shore": (
        "low viewpoint close above the swell", "seen from the waterline with the horizon set high",
        "a strong diagonal leading out from the near corner", "large calm shape against a band of restless texture",
        "subject held a third from the edge, empty distance opposite",
    ),
    "town": (
        "one-point perspective drawing the eye inward", "eye-level view framed by dark verticals on both sides",
        "a tall narrow crop with overlapping planes", "seen from just around a corner, half hidden",
        "converging lines that meet off centre",
    ),
    "land": (
        "wide view in three receding planes", "a winding line that leads from the foreground into depth",
        "high viewpoint over long rhythmic curves", "small subject against an enormous breadth",
        "layered silhouettes, each paler than the one before",
    ),
    "inside": (
        "tight arrangement on a slight diagonal", "seen from above at three-quarter angle",
        "objects grouped in an uneven triangle", "generous empty space around a compact group",
        "overlapping forms with one clear front edge",
    ),
    "figure": (
        "three-quarter view, close enough to touch", "the silhouette clear against an uncluttered ground",
        "head placed on the upper third, gaze leading outward", "cropped close with the background falling away",
        "a quiet pose turned slightly from the viewer",
    ),
    "vehicle": (
        "side view with room to move ahead of it", "low three-quarter angle that stresses its curves",
        "seen small within a broad setting", "strong horizontal balance broken by one upright",
        "parallel lines running past the frame",
    ),
    "plant": (
        "close low angle looking up through the stems", "one bloom sharp in front of many soft ones",
        "radial symmetry placed slightly off centre", "a loose rhythm of heads at differing heights",
    ),
    "open": (
        "one dominant form against wide emptiness", "slow spiral arrangement around an off-centre focus",
        "large quiet areas broken by a dense cluster", "asymmetric balance of few bold shapes",
    ),
}  # fmt: skip

LIGHT: dict[str, tuple[str, ...]] = {
    "day": (
        "soft directional daylight from the left", "clear side illumination with crisp cast shadows",
        "broken sunshine moving over the surfaces", "high diffuse brightness with gentle modelling",
        "reflected glow lifting every shadow",
    ),
    "noon": (
        "hard overhead sun with short sharp shadows", "bleached highlights and cool reflected shade",
        "strong vertical illumination carving the forms", "dazzling surfaces beside deep pockets of dark",
    ),
    "dawn": (
        "first low rays catching only the upper edges", "pale cool shadow giving way to a warm rim",
        "a thin band of brightness growing behind the forms", "soft early radiance with barely any contrast",
    ),
    "sunset": (
        "long raking rays and stretched shadows", "warm backlight outlining every contour",
        "glowing edges against deepening shade", "honeyed brightness fading upward",
    ),
    "dusk": (
        "the last afterglow balanced by one warm lamp", "dim blended shadows around a single bright accent",
        "fading brightness behind darkening shapes", "a low ember glow grazing the nearest edges",
    ),
    "night": (
        "pools of warm lamplight in deep shadow", "one small bright source and its long falloff",
        "cool ambient darkness pierced by sharp highlights", "glimmering reflections as the only brightness",
        "rim-lit edges emerging from near-black",
    ),
    "storm": ("a sudden shaft of brightness below heavy cloud", "flickering contrast between dark mass and white edge"),
    "rain": ("silvery overcast glow doubled by every glossy surface", "diffuse grey brightness with sparkling edges"),
    "mist": ("veiled brightness that dissolves the distance", "milky glow with contours lost and found"),
    "snow": ("crisp reflected brightness from below", "pearly even glow with faint tinted shade"),
}  # fmt: skip

PALETTE: dict[str, tuple[str, ...]] = {
    "day": (
        "muted sage and ochre with a clear azure accent", "restrained olive, cream and rust tones",
        "fresh turquoise set off by warm terracotta", "sandy beige balanced with dusty cobalt",
    ),
    "noon": ("chalky whites with saturated cobalt and coral notes", "bleached cream, sharp turquoise and amber tones"),
    "dawn": (
        "blush pink drifting into pale lavender", "lilac greys warmed by apricot", "peach and mint tints kept very light",
    ),
    "sunset": ("burnt copper, amber and deep plum", "molten orange sinking into violet", "terracotta, mustard and smoky mauve"),
    "dusk": ("indigo and plum around touches of amber", "slate violets with a copper accent", "inky navy softened by dusty coral"),
    "night": (
        "deep ultramarine with sparks of amber", "near-black indigo, jade hints and molten copper",
        "petrol navy against a narrow band of vermilion",
    ),
    # The prompt names its colours itself: nothing here names another.
    "named": (
        "colour held back elsewhere so that the named hues lead", "a narrow harmonious scheme with one saturated accent",
        "tinted neutrals carrying the stated hues", "saturation rising only around the focal point",
        "close-valued tones with a single complementary touch",
    ),
}  # fmt: skip

MEDIUM: dict[str, tuple[str, ...]] = {
    "shore": (
        "gouache with dry-brushed highlights", "oil on linen with visible palette-knife ridges",
        "loose watercolour left to granulate", "35mm photograph with fine grain",
    ),
    "town": (
        "ink line over transparent watercolour", "gouache on grey board with crisp edges",
        "analogue photograph, subtle halation and grain", "layered screenprint with slight misregistration",
    ),
    "land": (
        "watercolour on rough paper with lifted whites", "oil painting in broad confident strokes",
        "large-format photograph with deep focus", "chalky gouache with scumbled edges",
    ),
    "inside": (
        "oil painting with soft lost edges", "precise flat gouache with thin contours",
        "medium-format photograph, shallow focus", "coloured pencil burnished to a sheen",
    ),
    "figure": (
        "charcoal softened with a stump on toned stock", "oil sketch with loaded brushwork",
        "portrait-lens photograph, shallow focus", "ink brushwork with few decisive lines",
    ),
    "vehicle": (
        "flat vector shapes with subtle grain", "gouache poster style with clean edges",
        "ink and loose watercolour washes", "documentary photograph on slow stock",
    ),
    "plant": (
        "botanical watercolour with precise veins", "thick oil impasto following each petal",
        "macro photograph with creamy blur", "linocut shapes in layered ink",
    ),
    "open": (
        "acrylic poured and scraped in layers", "gouache over textured ground", "ink dispersed on damp paper",
        "risograph grain with overprinted shapes",
    ),
}  # fmt: skip

# How a medium that the prompt names itself is worked.
TECHNIQUE: dict[str, tuple[str, ...]] = {
    "charcoal": ("smudged midtones and sharp accents lifted with an eraser", "broad side-of-stick marks over exposed tooth"),
    "ink": ("varied line weight, dense hatching kept to the darks", "confident contours left open where edges turn"),
    "watercolour": ("granulating pigment and edges left to bloom", "reserved whites with soft bleeding transitions"),
    "pencil": ("directional hatching that follows the form", "layered strokes with lightly burnished accents"),
    "oil": ("loaded strokes over a thin warm underlayer", "lost and found edges with ridged highlights"),
    "photo": ("shallow focus with fine natural grain", "sharp focal plane and gentle optical falloff"),
    "pixel": ("limited swatches with deliberate dithering", "clean clusters and no stray dots"),
    "noir": ("inky blacks with narrow tonal midrange", "high-contrast blocking and faint grain"),
    "flat": ("clean interlocking shapes with subtle texture", "precise edges and simplified volumes"),
}  # fmt: skip

DETAIL: dict[str, tuple[str, ...]] = {
    "lighthouse": ("spray hanging in the air below the lamp", "wheeling gulls for scale", "salt-streaked whitewash and iron railings"),
    "bicycle": ("thin spokes throwing a lattice of shade", "chipped enamel and worn leather saddle", "peeling plaster with a hint of ivy"),
    "room": ("small lived-in objects on every shelf", "dust turning slowly beside the glass", "a half-finished letter left open"),
    "heron": ("splayed primaries at the end of each stroke", "several overlapping attempts at the same gesture", "droplets trailing from long legs"),
    "portrait": ("fine creases around attentive eyes", "tools and brass parts softly out of reach", "worn cuffs and ink-stained fingers"),
    "terraces": ("mirror-still pools between curving banks", "tiny figures bent along the ridges", "a thread of smoke rising far off"),
    "street": ("damp stone mirroring the windows above", "laundry stirring between balconies", "one distant figure mid-stride"),
    "dunes": ("fine grains blowing off the crest", "a single line of footprints", "rippled patterns repeating into haze"),
    "cat": ("whiskers and ear tips edged by brightness", "tail curled around overlapping slates", "a far scatter of chimney pots"),
    "harbour": ("mooring ropes dripping in slack loops", "masts swaying out of step", "broken columns of colour trembling below the hulls"),
    "alley": ("steam curling from a half-open door", "hand-painted signs worn by weather", "doubled signs trembling underfoot"),
    "market": ("folded cloth stacked to the awnings", "dust hanging in slanted beams", "brass vessels catching tiny suns"),
    "railway": ("curtained panes with someone reading inside", "ivy working over riveted iron", "a slow plume dissolving overhead"),
    "sunflower": ("pollen dusting the folded leaves", "tiny bees at the centre", "fine hairs visible along each stalk"),
    "paperboats": ("creased hulls darkening where damp has soaked in", "concentric rings spreading from each drop", "leaf fragments carried alongside"),
    "forest": ("ferns uncurling around fallen trunks", "shafts slanting between the boles", "lichen thick upon old bark"),
    "mountain": ("scree and ledges picked out by slanting shade", "cloud shadow sliding over the slopes", "a lone hawk turning far below"),
    "skyline": ("lit windows scattered at uneven intervals", "cranes and aerials breaking the silhouette", "tiny lights threading between blocks"),
    "stilllife": ("a crumpled linen fold at the edge", "one drop sliding down a glossy curve", "crumbs and a tarnished knife"),
    "ocean": ("foam lacing across the hollows", "gannets diving in the distance", "translucent crests about to break"),
    "space": ("faint dust lanes curling outward", "thin rings of scattered ice", "pinpoint specks in uneven clusters"),
    "castle": ("banners stirring from worn battlements", "rooks circling the highest stones", "moss filling every joint of masonry"),
    "house": ("a thread of smoke from the chimney", "crooked fence lost among tall grasses", "washing pegged out to dry"),
    "balloon": ("taut ropes and wicker catching brightness", "patchwork ground tilting far below", "a drifting shadow for scale"),
    "fish": ("rippled caustics sliding over scales", "strings of bubbles wobbling upward", "drifting weed half concealing the tail"),
    "robot": ("scuffed panels and hand-lettered markings", "one lens catching a pinpoint reflection", "cables looped loosely at the joints"),
    "car": ("chrome trim bending the surroundings", "dust lifting behind the tyres", "faded paintwork with honest dents"),
    "abstract": ("torn edges overlapping translucent layers", "scratched marks revealing what lies beneath", "fine threads linking distant shapes"),
}  # fmt: skip
