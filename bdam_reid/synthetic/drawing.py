"""Draws one shot of one person: the figure from far to near, then the scene, the obstacle and the camera."""

from __future__ import annotations

from random import Random

from PIL import Image

from bdam_reid.synthetic import accessories
from bdam_reid.synthetic.camera import CAMERAS, background, cast_shadow, develop, expose, occlude
from bdam_reid.synthetic.clothes import draw_arm, draw_torso
from bdam_reid.synthetic.figure import Figure, measures, paints, walking_pose
from bdam_reid.synthetic.head import Head
from bdam_reid.synthetic.legs import draw_legs
from bdam_reid.synthetic.painter import HEIGHT, SUPERSAMPLING, WIDTH, Painter, Stance
from bdam_reid.synthetic.people import Outfit, Person, Shot


def render(person: Person, outfit: Outfit, shot: Shot, seed: int) -> Image.Image:
    """The picture of a shot, `WIDTH` x `HEIGHT` RGB; the same arguments give the same picture.

    Cameras keep their distance: a person's height in the frame is that of the person, up to 1.5%.
    """
    rng = Random(f"{shot.seed}/render")
    camera = CAMERAS[shot.camera]
    centre = WIDTH * (0.5 + rng.uniform(-0.03, 0.03))
    floor = HEIGHT * (0.972 + rng.uniform(-0.008, 0.008))
    height = person.stature * HEIGHT * (1 + rng.uniform(-0.015, 0.015))
    stooped, side_view = person.posture == "stooped", shot.viewpoint in ("left", "right")
    facing, lean = -1 if shot.viewpoint == "left" else 1, 0.13 if stooped and side_view else 0.0
    stance = Stance(
        centre=centre - facing * lean * height / 2,
        top=floor - height,
        height=height,
        facing=facing,
        light=camera.light,
        lean=lean,
        drop=0.05 if stooped else 0.0,
    )
    body = measures(person)
    painter = Painter(stance, body)
    pose = walking_pose(body, shot.viewpoint, rng)
    _draw_figure(Figure(painter, body, pose, person, outfit, paints(outfit, shot.seed), rng))

    scene = background(seed, shot.camera, rng)
    scene = cast_shadow(scene, centre, floor, height * (0.14 if side_view else 0.12), camera.light)
    colour, light = painter.colour.reduce(SUPERSAMPLING), painter.light.reduce(SUPERSAMPLING)
    image = expose(colour, light, scene, camera, rng.uniform(*camera.brightness))
    occlude(image, shot.occluder, rng)
    return develop(image, camera, rng)


def _draw_figure(figure: Figure) -> None:
    head, (far_arm, near_arm) = Head(figure), figure.pose.arms
    side_view = figure.pose.side_view
    if side_view:
        draw_arm(figure, far_arm)
    accessories.draw_behind(figure)
    head.draw_behind()
    draw_legs(figure)
    if not side_view:
        draw_arm(figure, far_arm)
        draw_arm(figure, near_arm)
    draw_torso(figure)
    accessories.draw_scarf(figure)
    accessories.draw_before(figure)
    if side_view:
        draw_arm(figure, near_arm)
    accessories.draw_in_hand(figure)
    head.draw()
