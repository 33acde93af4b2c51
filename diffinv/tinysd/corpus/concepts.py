"""What an icon's name says: its concept and its style; and the words that no training caption speaks."""

import re

STYLE_WORDS = {
    "outline": "outline", "outlined": "outline", "line": "outline", "linear": "outline", "o": "outline",
    "filled": "filled", "fill": "filled", "solid": "filled", "s": "filled", "bold": "bold", "light": "thin",
    "thin": "thin", "duotone": "duotone", "twotone": "duotone", "sharp": "sharp", "rounded": "rounded",
    "round": "rounded", "regular": "", "r": "", "l": "thin", "b": "bold", "alt": "", "two": "", "tone": "",
    "broken": "broken", "bulk": "duotone", "off": "crossed out",
}  # fmt: skip
ICONS10 = {
    "car": ("car", "car side", "car front", "car alt"), "home": ("home", "house"), "heart": ("heart",),
    "star": ("star",), "bell": ("bell", "notification", "notifications"), "cloud": ("cloud",),
    "camera": ("camera",), "key": ("key", "vpn key"),
    "tree": ("tree", "pine tree", "tree deciduous", "tree evergreen", "tree palm", "palm tree",
             "evergreen tree", "deciduous tree", "christmas tree", "tree pine", "trees"),
    "umbrella": ("umbrella", "beach umbrella", "umbrella beach", "umbrella open", "beach access",
                 "umbrella closed"),
}  # fmt: skip
NOVEL10 = {
    "anchor": ("anchor",), "bug": ("bug", "beetle", "ladybug"), "crown": ("crown",),
    "gift": ("gift", "present"), "magnet": ("magnet",), "puzzle": ("puzzle", "puzzle piece", "jigsaw"),
    "rocket": ("rocket", "rocket launch"),
    "scissors": ("scissors", "scissor", "cut"), "skull": ("skull", "skull crossbones", "skeleton"),
    "trophy": ("trophy", "trophy award"),
}  # fmt: skip
# Every word under which a novel10 shape might enter the training captions.
UNSPOKEN_WORDS = frozenset({
    "anchor", "anchors", "bug", "bugs", "beetle", "ladybug", "insect", "debug", "crown", "king",
    "queen", "princess", "royal", "gift", "gifts", "present", "giftcard", "magnet", "magnets",
    "magnetic", "puzzle", "puzzles", "jigsaw", "extension", "rocket", "rockets", "launch", "spaceship",
    "spacecraft", "scissors", "scissor", "cut", "skull", "skulls", "skeleton", "death", "poison",
    "trophy", "trophies", "award", "awards", "prize", "cup",
})  # fmt: skip
# Further words under which the many rarer names of the wider corpus might show such a shape.
UNSPOKEN_WORDS_OF_WIDER = UNSPOKEN_WORDS | {
    "nautical", "harbor", "harbour", "marina", "port", "beetles", "ladybird", "spider", "ant", "cockroach",
    "virus", "crowns", "royalty", "tiara", "crowned", "vip", "giftbox", "reward", "rewards", "birthday",
    "attract", "attraction", "snap", "magnetism", "plugin", "plugins", "addon", "addons", "piece", "module",
    "startup", "shuttle", "space", "missile", "boost", "snip", "cutting", "shear", "shears", "barber",
    "pirate", "skeletal", "bones", "crossbones", "toxic", "dead", "danger", "hazard", "champion",
    "championship", "achievement", "achievements", "winner", "victory", "leaderboard",
}  # fmt: skip
# Firms and their products, whose signs are trademarks: sets of logos are left out as a whole, and these are
# such signs in sets of other icons. ("apple" is a fruit in some and is left out with the others.)
BRANDS = frozenset({
    "airbnb", "airplay", "amazon", "android", "angular", "apple", "behance", "bitcoin", "chrome", "codepen",
    "css", "discord", "dribbble", "dropbox", "ethereum", "excel", "facebook", "figma", "firefox", "framer",
    "git", "github", "gitlab", "google", "hangout", "html", "instagram", "javascript", "linkedin",
    "linux", "mac", "markdown", "meta", "microsoft", "paypal", "pinterest", "python", "react", "reddit",
    "safari", "skype", "slack", "snapchat", "spotify", "stripe", "telegram", "tiktok", "tumblr", "twitch",
    "twitter", "typescript", "ubuntu", "vimeo", "vue", "wechat", "whatsapp", "windows", "word", "wordpress",
    "x", "youtube",
})  # fmt: skip


def parse_icon_name(name: str) -> tuple[str, str]:
    """Split ``heart-outline-24`` into the concept ``heart`` and the style ``outline``."""
    words = [word for word in re.split(r"[-_]", name.lower()) if not re.fullmatch(r"(\d+(px)?)?", word)]
    styles = dict.fromkeys(STYLE_WORDS[word] for word in words if STYLE_WORDS.get(word))
    return " ".join(word for word in words if word not in STYLE_WORDS), " ".join(styles)
