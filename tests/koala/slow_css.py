"""Color-Struct SVM and the official rule once more, by plain loops, numpy and scikit-image; frames BGR."""
import cv2
import numpy as np
from skimage.metrics import structural_similarity


def pair(a, b):
    """(bgr, canny, svm) of two frames."""
    smalls = [cv2.resize(frame, (256, 256)) for frame in (a, b)]
    h = [np.concatenate([np.bincount(small[..., c].ravel(), minlength=256)[1:255] for c in range(3)]).astype(float) for small in smalls]
    d = [x - x.mean() for x in h]
    norm = np.sqrt((d[0] ** 2).sum() * (d[1] ** 2).sum())
    bgr = (d[0] * d[1]).sum() / norm if norm else 1.0
    greys = [cv2.resize(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), (128, 128)) for small in smalls]
    canny = structural_similarity(*(np.maximum(grey, cv2.Canny(grey, 100, 200)) for grey in greys), data_range=255)
    return bgr, canny, 4.61480465 * bgr + 3.75211168 * canny - 5.485968377115124


def kept(svm):
    """Clips by the rule, pair by pair."""
    n = len(svm)
    mean = list(svm)
    if n > 2:
        for i in range(1, n - 1):
            mean[i] = (svm[i - 1] + svm[i] + svm[i + 1]) / 3
    visible = [True] * n + [False]
    for i in range(n):
        if svm[i] < 0:
            visible[i] = False
        elif i >= 8 and mean[i] < 0.75:
            middle = np.array(sorted(mean[i - 8 : i])[1:6])
            if mean[i] < middle.mean() - 3 * max(0.2, middle.std()):
                visible[i] = False
    clips, start = [], 0
    for i in range(n + 1):
        if not visible[i]:
            if i - start > 8:
                clips.append((start + 4, i - 4))
            start = i + 1
    return clips
