"""The word lists: which words mean which scene, hour, weather, medium. Singular, lower-case."""

from __future__ import annotations

_SCENE_WORDS: dict[str, str] = {
    # scene: words, with their weight after a colon (default 2)
    "lighthouse": "lighthouse:4 beacon cliff:1 headland coast coastline basalt:1 sea:1 storm:1",
    "bicycle": "bicycle:5 bike:5 cyclist:4 wheel:1 wall:1 velo:4",
    "room": "isometric:4 cutaway:4 room:3 interior:3 bedroom:4 kitchen:3 diorama:4 apartment:2 attic:3 study:1 office:2",
    "heron": "heron:5 bird:3 crane:4 egret:4 stork:4 swan:3 owl:3 crow:3 raven:3 sparrow:3 wing:1 study:1 sketch:1 feather:1 eagle:3 gull:2",
    "portrait": "portrait:4 man:2 woman:2 face:3 clockmaker:3 watchmaker:3 craftsman:3 girl:2 boy:2 person:2 king:2 queen:2 wizard:2 workshop:1 grandmother:2 grandfather:2 sailor:2 astronaut:2 samurai:2 knight:2 artist:2 musician:2 child:2 soldier:2 self:1",
    "terraces": "terrace:4 terraced:4 rice:4 paddy:4 field:1 vineyard:3 tea:1 plantation:2 step:0.5",
    "street": "street:4 lisbon:3 tram:4 facade:2 tiled:2 rail:1 cobbled:2 cobblestone:2 town:2 village:2 road:2 lane:2 avenue:3 balcony:1 paris:2 venice:2",
    "dunes": "dune:4 kite:4 desert:4 sand:2 sahara:4 camel:4 oasis:2",
    "cat": "cat:3.5 kitten:4 kitty:4 roof:2 rooftop:2 chimney:1",
    "harbour": "harbour:4 harbor:4 port:2 pier:3 dock:3 marina:4 ship:2 boat:1.5 quay:3 fishing:1",
    "alley": "alley:4 lantern:3 alleyway:4 tokyo:4 japanese:3 kyoto:4 izakaya:4 yokocho:4 neon:2 puddle:1 japan:3 osaka:4",
    "market": "market:4 souk:5 bazaar:5 fabric:2 textile:2 stall:3 spice:2 medina:4 carpet:2 rug:1 arab:2 moroccan:2",
    "railway": "railway:4 train:4 carriage:4 viaduct:4 locomotive:4 bridge:2 library:2 steam:1 wagon:2",
    "sunflower": "sunflower:5 flower:3 rose:1 poppy:3 tulip:3 daisy:3 bloom:2 blossom:2 garden:2 petal:2 lily:2 bouquet:2 lotus:3 peony:3",
    "paperboats": "paper:1.5 gutter:3 boat:1.5 origami:3 puddle:1 drifting:1 stream:1.5",
    "forest": "forest:4 wood:2 tree:3 jungle:3 birch:3 pine:3 oak:3 deer:3 fox:3 autumn:0.5 moss:2 woodland:4 path:1 willow:3 wolf:2 bear:2",
    "mountain": "mountain:3 alp:4 peak:3 summit:3 glacier:3 hill:2 valley:3 lake:2.5 snow:0.5 himalaya:4 volcano:3 fjord:3 cabin:1.5 meadow:1.5 landscape:1 river:1.5 waterfall:2",
    "skyline": "city:3 skyline:5 skyscraper:4 metropolis:4 downtown:4 tower:2 manhattan:4 cyberpunk:3 building:2 futuristic:1 york:2",
    "stilllife": "still:1 life:0.5 fruit:3 apple:3 bowl:3 vase:2.5 teapot:4 table:1.5 pear:3 lemon:0.5 bread:3 cup:3 coffee:3 bottle:3 wine:2 pomegranate:3 teacup:4 breakfast:3 jug:3 candle:2",
    "ocean": "ocean:4 wave:3 sea:2 beach:4 whale:4 surf:3 island:3 underwater:1 shore:3 dolphin:3 sailboat:4 sailing:2 yacht:4 tide:2 seascape:4",
    "space": "space:3 planet:4 galaxy:4 nebula:4 rocket:4 spaceship:4 star:1.5 moon:2 mars:4 cosmos:4 astronaut:1 saturn:4 universe:4 comet:3",
    "castle": "castle:5 fortress:4 palace:4 dragon:4 ruin:3 temple:3 cathedral:4 church:3 tower:1 kingdom:3 fairytale:2 knight:1 monastery:3",
    "house": "house:3 cottage:4 farm:3 barn:4 windmill:5 mill:3 farmhouse:4 garden:1 hut:3 home:2 field:1 wheat:2 countryside:2",
    "balloon": "balloon:5 airship:5 zeppelin:5 airplane:3 plane:3 sky:1 cloud:1.5 flying:1 dirigible:5",
    "fish": "fish:4 reef:4 coral:2 underwater:3 aquarium:4 koi:5 goldfish:5 jellyfish:4 octopus:3 turtle:3 shark:4 submarine:3 carp:4",
    "robot": "robot:5 android:4 machine:2 mech:4 droid:4 automaton:4 cyborg:3",
    "car": "car:4 truck:4 van:3 automobile:4 taxi:4 bus:3 motorcycle:2 convertible:3 beetle:2 racing:1 vehicle:3",
}  # fmt: skip


def _by_word(table: dict[str, str]) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}
    for scene, words in table.items():
        for entry in words.split():
            word, _, weight = entry.partition(":")
            found.setdefault(word, []).append((scene, float(weight or 2)))
    return found


def _flat(table: dict[str, str]) -> dict[str, str]:
    return {word: meaning for meaning, words in table.items() for word in words.split()}


SCENES = _by_word(_SCENE_WORDS)

HOURS = _flat(
    {
        "night": "cyberpunk night midnight nocturne moonlight moonlit starlit starry moon nighttime neon",
        "dawn": "dawn sunrise daybreak morning",
        "sunset": "sunset sundown golden evening",
        "dusk": "dusk twilight gloaming",
        "noon": "noon midday",
        "day": "day daylight afternoon sunny",
    }
)

WEATHERS = _flat(
    {
        "storm": "storm stormy thunder lightning tempest gale hurricane",
        "rain": "rain rainy drizzle wet shower raining puddle",
        "snow": "snow snowy blizzard winter frost icy snowfall",
        "mist": "mist misty fog foggy haze hazy",
    }
)

MEDIA = _flat(
    {
        "charcoal": "charcoal chalk conte graphite",
        "ink": "ink inked etching engraving woodcut lithograph hatching comic",
        "watercolour": "watercolour watercolor aquarelle wash",
        "pencil": "pencil crayon",
        "oil": "oil impasto painting impressionist painterly acrylic",
        "photo": "photo photograph photography mm lens exposure bokeh cinematic film polaroid photorealistic",
        "pixel": "pixel pixelated bit voxel",
        "noir": "noir monochrome",
        "flat": "flat vector minimalist poster isometric naive naïve illustration",
    }
)

# The nouns that a colour right before them describes alone, per scene.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "bicycle": ("bicycle", "bike"), "cat": ("cat", "kitten"), "dunes": ("kite",), "lighthouse": ("lighthouse",),
    "sunflower": ("flower", "rose", "poppy", "tulip", "daisy", "lily", "lotus", "peony"), "balloon": ("balloon", "airship", "plane"),
    "fish": ("fish", "koi", "goldfish", "jellyfish"), "robot": ("robot", "android"), "car": ("car", "truck", "van", "bus", "taxi"),
    "stilllife": ("apple", "pear", "teapot", "vase", "bowl", "cup"), "house": ("house", "barn", "cottage"),
    "paperboats": ("boat",), "ocean": ("sail", "sailboat", "boat"), "harbour": ("boat", "ship"),
}  # fmt: skip

# Parts of other scripts, and what they say in the words above.
FOREIGN: dict[str, str] = {
    "雨": "rain", "夜": "night", "横丁": "alley", "路地": "alley", "提灯": "lantern", "水たまり": "puddle", "反射": "reflection",
    "猫": "cat", "山": "mountain", "海": "ocean", "森": "forest", "花": "flower", "桜": "blossom", "鳥": "bird", "鶴": "crane",
    "城": "castle", "雪": "snow", "駅": "railway", "電車": "train", "船": "ship", "港": "harbour", "街": "street",
    "都市": "city", "市場": "market", "ひまわり": "sunflower", "向日葵": "sunflower", "自転車": "bicycle", "灯台": "lighthouse",
    "魚": "fish", "空": "sky", "月": "moon", "星": "star", "砂漠": "desert", "夕": "sunset", "朝": "dawn", "赤": "red",
    "青": "blue", "緑": "green", "黄": "yellow", "白": "white", "黒": "black", "紫": "purple", "家": "house",
    "سوق": "market", "ملوّن": "colourful", "ضوء": "light", "غروب": "sunset", "أقمشة": "fabric", "ذهبي": "golden", "قديم": "old", "ليل": "night", "بحر": "sea",
    "صحراء": "desert", "جبل": "mountain", "قطة": "cat", "مدينة": "city", "شارع": "street", "مطر": "rain", "زهرة": "flower",
    "غابة": "forest", "ميناء": "harbour", "قلعة": "castle", "أحمر": "red", "أزرق": "blue", "أخضر": "green", "بيت": "house",
    "море": "sea", "лес": "forest", "горы": "mountain", "кот": "cat", "кош": "cat", "город": "city", "ночь": "night", "дожд": "rain",
    "снег": "snow", "цвет": "flower", "птиц": "bird", "маяк": "lighthouse", "замок": "castle", "рынок": "market",
    "산": "mountain", "바다": "ocean", "고양이": "cat", "도시": "city", "밤": "night", "비": "rain", "숲": "forest", "꽃": "flower",
    "phare": "lighthouse", "vélo": "bicycle", "forêt": "forest", "mer": "sea", "chat": "cat", "ville": "city", "nuit": "night",
    "Katze": "cat", "Wald": "forest", "Berg": "mountain", "Stadt": "city", "Nacht": "night", "Meer": "sea", "Hafen": "harbour",
    "Leuchtturm": "lighthouse", "Schloss": "castle", "Blume": "flower", "gato": "cat", "bosque": "forest", "ciudad": "city",
    "montaña": "mountain", "noche": "night", "playa": "beach", "flor": "flower", "lluvia": "rain", "castillo": "castle",
}  # fmt: skip
